"""Who is alive: SWIM with Lifeguard, as pure machines."""
