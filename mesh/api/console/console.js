// The console: asks a pipeline and shows the mesh as this node sees it.
// Text from anywhere is only ever set as text, never as markup.

const REFRESH_MS = 2000;
const byId = (id) => document.getElementById(id);
let pipelines = [];
let running = null;

const headers = () => {
  const key = byId("key").value;
  return key ? { Authorization: `Bearer ${key}` } : {};
};

async function get(path) {
  const response = await fetch(path, { headers: headers() });
  const body = await response.json();
  if (!response.ok) throw new Error(body.error ? body.error.message : response.statusText);
  return body;
}

function row(cells, isBad) {
  const tr = document.createElement("tr");
  for (const cell of cells) {
    const td = document.createElement("td");
    td.textContent = cell;
    if (isBad) td.className = "bad";
    tr.append(td);
  }
  return tr;
}

async function refresh() {
  if (document.hidden) return;
  try {
    if (!pipelines.length) await loadPipelines();
    const { seen_by, members } = await get("/v1/members");
    const alive = members.filter((m) => m.status === "alive").length;
    byId("status").textContent = `${alive} of ${members.length} nodes alive`;
    byId("view").textContent = `As seen from ${seen_by} at ${new Date().toLocaleTimeString()}`;
    byId("members").tBodies[0].replaceChildren(...members.map((m) =>
      row([m.name, m.status, m.http, m.roles.join(", "), m.load_s], m.status !== "alive")));
  } catch (error) {
    byId("status").textContent = `No news from this node: ${error.message}`;
  }
}

async function loadPipelines() {
  ({ pipelines } = await get("/v1/pipelines"));
  byId("pipeline").replaceChildren(...pipelines.map((p) => new Option(p.name, p.name)));
  showInputs();
}

function showInputs() {
  const pipeline = pipelines.find((p) => p.name === byId("pipeline").value);
  const fields = pipeline ? pipeline.input : [];
  byId("inputs").replaceChildren(...fields.flatMap((name) => {
    const label = document.createElement("label");
    label.textContent = name;
    label.htmlFor = `field-${name}`;
    const area = document.createElement("textarea");
    area.id = `field-${name}`;
    area.name = name;
    area.rows = 2;
    area.cols = 60;
    return [label, area];
  }));
}

function place(name) {
  const id = `answer-${name}`;
  if (!byId(id)) {
    const dt = document.createElement("dt");
    dt.textContent = name;
    const dd = document.createElement("dd");
    dd.id = id;
    byId("answer").append(dt, dd);
  }
  return byId(id);
}

const shown = (value) => typeof value === "string" ? value : JSON.stringify(value, null, 2);

function take(name, data) {
  if (name === "token") place(data.field).append(new Text(data.text));
  if (name === "field") place(data.name).textContent = shown(data.value);
  if (name === "error") throw new Error(data.error.message);
  if (name !== "done") return;
  const { trace, ...fields } = data;
  for (const [field, value] of Object.entries(fields)) place(field).textContent = shown(value);
  byId("trace").hidden = false;
  byId("trace").tBodies[0].replaceChildren(...trace.stages.map((s) => row(
    [s.name, s.node, ...[s.queued_ms, s.ran_ms, s.network_ms].map((ms) => ms.toFixed(1)), s.batch_size])));
  byId("phase").textContent = `Answered in ${Math.round(trace.total_ms)} ms`;
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const blocks = (rest + part.value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const lines = Object.fromEntries(block.split("\n").map((line) => {
        const colon = line.indexOf(":");
        return [line.slice(0, colon), line.slice(colon + 1).trim()];
      }));
      if (lines.event) yield [lines.event, JSON.parse(lines.data)];
    }
  }
}

async function ask(event) {
  event.preventDefault();
  const fields = Object.fromEntries([...byId("inputs").querySelectorAll("textarea")].map((a) => [a.name, a.value]));
  running = new AbortController();
  byId("send").disabled = true;
  byId("stop").disabled = false;
  byId("fault").textContent = "";
  byId("answer").replaceChildren();
  byId("trace").hidden = true;
  byId("phase").textContent = "Working…";
  try {
    const response = await fetch(`/v1/pipelines/${encodeURIComponent(byId("pipeline").value)}`, {
      method: "POST", signal: running.signal,
      headers: { "Content-Type": "application/json", ...headers() },
      body: JSON.stringify({ ...fields, stream: true }),
    });
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const [name, data] of events(response.body)) take(name, data);
  } catch (error) {
    byId("phase").textContent = "";
    byId("fault").textContent = error.name === "AbortError" ? "Stopped" : error.message;
  } finally {
    byId("send").disabled = false;
    byId("stop").disabled = true;
  }
}

byId("ask").addEventListener("submit", ask);
byId("stop").addEventListener("click", () => running.abort());
byId("pipeline").addEventListener("change", showInputs);
document.addEventListener("visibilitychange", refresh);
refresh();
setInterval(refresh, REFRESH_MS);
