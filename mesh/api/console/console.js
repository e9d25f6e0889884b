// The console: asks a pipeline and shows the mesh as this node sees it.
// Text from anywhere is only ever set as text, never as markup.

const REFRESH_MS = 2000;
const byId = (id) => document.getElementById(id);
let pipelines = [];
let types = {}; // of the chosen pipeline's input, as the OpenAPI document has them
let running = null;

function make(tag, text = "", kind = "", ...children) {
  const node = document.createElement(tag);
  node.textContent = text;
  if (kind) node.className = kind;
  node.append(...children);
  return node;
}

// ------------------------------------------------------------------ calling this node

const headers = () => (byId("key").value ? { Authorization: `Bearer ${byId("key").value}` } : {});

async function refused(response) {
  if (response.status === 401) byId("key-form").hidden = false;
  const body = await response.json().catch(() => ({}));
  return new Error(body.error ? body.error.message : `${response.status} ${response.statusText}`);
}

async function get(path) {
  const response = await fetch(path, { headers: headers() });
  if (!response.ok) throw await refused(response);
  return response.json();
}

// ------------------------------------------------------------------ the nodes

async function refresh() {
  if (document.hidden) return;
  try {
    if (!pipelines.length) await loadPipelines();
    const { seen_by, members } = await get("/v1/members");
    const alive = members.filter((m) => m.status === "alive").length;
    byId("status").textContent = `${alive} of ${members.length} nodes alive`;
    byId("status").classList.toggle("bad", alive < members.length);
    byId("view").textContent = `As ${seen_by} sees them at ${new Date().toLocaleTimeString()}`;
    byId("nodes").replaceChildren(...members.map(card));
  } catch (error) {
    byId("status").textContent = `no news: ${error.message}`;
    byId("status").classList.add("bad");
  }
}

function card(member) {
  const state = member.draining ? "leaving" : member.status;
  const wait = member.load_s >= 0.05 ? ` · ${member.load_s.toFixed(1)} s of work waits` : "";
  const roles = member.roles.map((role) => make("li", role));
  return make("li", "", member.status === "alive" ? "" : "bad",
    make("p", "", "", make("b", member.name), ` ${state}`),
    make("p", `${member.http}${wait}`, "soft"),
    roles.length ? make("ul", "", "roles", ...roles) : make("p", "no roles yet", "soft"));
}

// ------------------------------------------------------------------ the question

async function loadPipelines() {
  ({ pipelines } = await get("/v1/pipelines"));
  byId("pipeline").replaceChildren(...pipelines.map((p) => new Option(p.name, p.name)));
  byId("pipeline-row").hidden = pipelines.length < 2;
  await choose();
}

async function choose() {
  const pipeline = pipelines.find((p) => p.name === byId("pipeline").value);
  if (!pipeline) return;
  byId("stages").textContent = pipeline.stages.map((s) => s.name).join(" → ");
  byId("inputs").replaceChildren(...pipeline.input.flatMap((name) => {
    const area = make("textarea");
    Object.assign(area, { id: `field-${name}`, name, rows: 2, required: true });
    const label = make("label", name, pipeline.input.length < 2 ? "unseen" : "soft");
    label.htmlFor = area.id;
    return [label, area];
  }));
  byId("inputs").querySelector("textarea")?.focus();
  const { paths } = await get("/openapi.json");
  const body = paths[`/v1/pipelines/${pipeline.name}`]?.post.requestBody;
  types = body ? body.content["application/json"].schema.properties : {};
}

function inputs() {
  return Object.fromEntries([...byId("inputs").querySelectorAll("textarea")].map((area) => {
    if (types[area.name]?.type === "string") return [area.name, area.value];
    try {
      return [area.name, JSON.parse(area.value)]; // numbers, lists: as JSON
    } catch {
      return [area.name, area.value];
    }
  }));
}

async function ask(event) {
  event.preventDefault();
  if (running) return;
  running = new AbortController();
  begin();
  try {
    const response = await fetch(`/v1/pipelines/${encodeURIComponent(byId("pipeline").value)}`, {
      method: "POST", signal: running.signal,
      headers: { "Content-Type": "application/json", ...headers() },
      body: JSON.stringify({ ...inputs(), stream: true }),
    });
    if (!response.ok) throw await refused(response);
    for await (const [name, data] of events(response.body)) take(name, data);
  } catch (error) {
    byId("phase").textContent = error.name === "AbortError" ? "stopped" : "";
    byId("fault").textContent = error.message;
    byId("fault").hidden = error.name === "AbortError";
  } finally {
    running = null;
    end();
  }
}

function begin() {
  for (const id of ["answer", "facts", "lists"]) byId(id).replaceChildren();
  byId("answer").className = "busy";
  byId("result").hidden = byId("stop").hidden = false;
  byId("fault").hidden = byId("trace").hidden = byId("send").disabled = true;
  byId("phase").textContent = "working…";
}

function end() {
  byId("answer").className = "";
  byId("send").disabled = false;
  byId("stop").hidden = true;
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

// ------------------------------------------------------------------ the answer

function take(name, data) {
  if (name === "token") textOf(data.field).append(String(data.text));
  if (name === "field") show(data.name, data.value);
  if (name === "error") throw new Error(data.error.message);
  if (name !== "done") return;
  const { trace, ...fields } = data;
  for (const [field, value] of Object.entries(fields)) show(field, value);
  showTrace(trace);
  byId("phase").textContent = `answered in ${Math.round(trace.total_ms)} ms`;
}

function textOf(field) {
  const id = `text-${field}`;
  if (!byId(id)) {
    byId("answer").append(make("div"));
    byId("answer").lastChild.id = id;
  }
  return byId(id);
}

// Streamed text stays in its place; one word is a fact; documents and the rest are lists.
function show(field, value) {
  const isText = typeof value === "string" && (value.length > 40 || /\s/.test(value));
  if (isText || byId(`text-${field}`)) textOf(field).replaceChildren(...withCode(plain(value)));
  else if (value === null || typeof value !== "object") {
    place("facts", field, make("li", `${field.replaceAll("_", " ")} `, "pill", make("b", plain(value))));
  } else if (Array.isArray(value) && value.every((one) => one && typeof one.title === "string")) {
    place("lists", field, make("div", "", "", make("h2", field), ...value.map(source)));
  } else {
    place("lists", field, make("div", "", "", make("h2", field), make("pre", plain(value))));
  }
}

// Fields come as they are ready, and once more at the end in the pipeline's own order.
function place(list, field, node) {
  node.id = `${list}-${field}`;
  const old = byId(node.id);
  const isSame = old && old.textContent === node.textContent; // then what is open stays open
  if (old && !isSame) old.remove();
  byId(list).append(isSame ? old : node);
}

// What stands between backticks is code.
const withCode = (text) => text.split(/`([^`\n]+)`/).map((part, at) => (at % 2 ? make("code", part) : part));

const plain = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 2));

function source(document) {
  const text = String(document.content ?? "");
  const score = typeof document.score === "number" ? document.score.toFixed(2) : "";
  return make("details", "", "",
    make("summary", "", "",
      make("code", document.title), make("span", text.slice(0, 200), "soft"), make("span", score, "soft number")),
    make("pre", text));
}

function showTrace(trace) {
  const parts = (s) => [["waited", s.queued_ms], ["ran", s.ran_ms], ["way", s.network_ms]];
  const total = (s) => s.queued_ms + s.ran_ms + s.network_ms;
  const most = Math.max(...trace.stages.map(total), 0.001);
  byId("trace").tBodies[0].replaceChildren(...trace.stages.map((stage) => {
    const bars = parts(stage).map(([kind, ms]) => {
      const bar = make("i", "", kind);
      bar.title = `${kind}: ${ms.toFixed(1)} ms`;
      bar.style.width = `${(100 * ms) / most}%`;
      return bar;
    });
    return make("tr", "", "",
      make("td", stage.name), make("td", stage.node),
      make("td", total(stage).toFixed(1), "number"),
      make("td", "", "wide", make("div", "", "bar", ...bars)),
      make("td", stage.cached ? "cached" : stage.batch_size, "number"));
  }));
  byId("trace").hidden = false;
}

byId("ask").addEventListener("submit", ask);
byId("ask").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.target.tagName !== "TEXTAREA") return;
  event.preventDefault();
  byId("ask").requestSubmit();
});
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  byId("key-form").hidden = true;
  refresh();
});
byId("stop").addEventListener("click", () => running?.abort());
byId("pipeline").addEventListener("change", choose);
document.addEventListener("visibilitychange", refresh);
refresh();
setInterval(refresh, REFRESH_MS);
