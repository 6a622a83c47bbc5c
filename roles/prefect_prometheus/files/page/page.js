// What Prometheus knows of a Prefect site, asked again and again. It asks the host that served the page and nobody else.

const REFRESH_MS = 2000;
const CHARTS_MS = 15000;
const STALE_SECONDS = 120;
const FAILED = ["FAILED", "CRASHED"];
const P95 =
  "histogram_quantile(0.95, max without (instance, job) (pgprefect_flow_run_duration_seconds_bucket))";

const byId = (id) => document.getElementById(id);
let site = { tenants: {} };

async function ask(path, parameters) {
  const answer = await fetch(`../api/v1/${path}?${new URLSearchParams(parameters)}`);
  const { status, data, error } = await answer.json();
  if (status !== "success") throw new Error(error);
  return data;
}

// --- Figures: of several hosts that print the same one, the greatest counts.

const OF_A_HOST = /^pgprefect_(job|backup|certificate|collect)_/;

class Figures {
  constructor(series) {
    this.byName = new Map();
    for (const { metric, value } of series) {
      const { __name__: name, job, instance, ...labels } = metric;
      const own = OF_A_HOST.test(name) ? { ...labels, instance } : labels;
      const key = JSON.stringify(Object.entries(own).sort());
      const known = this.byName.get(name) ?? this.byName.set(name, new Map()).get(name);
      const number = Number(value[1]);
      if (!known.has(key) || known.get(key).value < number) known.set(key, { labels: own, value: number });
    }
  }

  // The samples of a metric whose labels have these values; an array has all that are allowed.
  all(name, wanted = {}) {
    const tenant = byId("tenant").value;
    return [...(this.byName.get(`pgprefect_${name}`)?.values() ?? [])].filter(
      ({ labels }) =>
        (!tenant || !labels.tenant || labels.tenant === tenant) &&
        Object.entries(wanted).every(([label, value]) => [value].flat().includes(labels[label] ?? "")),
    );
  }

  sum(name, wanted) {
    return this.all(name, wanted).reduce((sum, { value }) => sum + value, 0);
  }

  // One value, or undefined where there is none.
  most(name, wanted) {
    const values = this.all(name, wanted).map(({ value }) => value);
    return values.length ? Math.max(...values) : undefined;
  }
}

// --- Numbers as people read them

const count = (value) => (value === undefined ? "–" : Math.round(value).toLocaleString("en"));
const percent = (value) => (value === undefined || Number.isNaN(value) ? "–" : `${(100 * value).toFixed(value < 1 ? 1 : 0)} %`);
const since = (moment) => (moment === undefined ? "–" : `${duration(Date.now() / 1000 - moment)} ago`);

function duration(seconds) {
  if (seconds === undefined || Number.isNaN(seconds)) return "–";
  const sign = seconds < 0 ? "-" : "";
  const rest = Math.abs(seconds);
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (rest >= 2 * size) return `${sign}${Math.round(rest / size)} ${unit}`;
  }
  return `${sign}${rest < 10 ? rest.toFixed(1) : Math.round(rest)} s`;
}

function bytes(value) {
  if (value === undefined) return "–";
  const power = value > 0 ? Math.min(4, Math.floor(Math.log2(value) / 10)) : 0;
  return `${(value / 1024 ** power).toFixed(power ? 1 : 0)} ${["B", "KiB", "MiB", "GiB", "TiB"][power]}`;
}

// --- Parts of the page. A cell is a text, or { text, kind, link }; texts of others never become HTML.

function element(tag, { text, kind, link, children = [], ...attributes }) {
  const made = document.createElement(tag);
  const inside = link ? made.appendChild(Object.assign(document.createElement("a"), { href: link })) : made;
  if (text !== undefined) inside.textContent = text;
  if (kind) made.className = kind;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// Replaces what differs only: a person may be selecting a text, or about to click.
const shown = new Map();
function fill(node, children) {
  const html = children.map((child) => child.outerHTML).join("");
  if (shown.get(node) === html) return;
  shown.set(node, html);
  node.replaceChildren(...children);
}

const cell = (value) => (typeof value === "object" ? value : { text: value });

function tiles(id, values) {
  fill(
    byId(id),
    Object.entries(values).map(([name, value]) =>
      element("div", {
        "data-name": name,
        children: [element("dt", { text: name }), element("dd", cell(value))],
      }),
    ),
  );
}

// The first column holds text, and so do those whose names end with a star.
function table(id, columns, rows) {
  const texts = columns.map((column, index) => index === 0 || column.endsWith("*"));
  const heads = columns.map((column, index) =>
    element("th", { text: column.replace("*", ""), kind: texts[index] ? "text" : "" }),
  );
  const body = rows.map((row) =>
    element("tr", {
      children: row.map((value, index) => {
        const { kind = "", ...rest } = cell(value);
        return element("td", { ...rest, kind: texts[index] ? `text ${kind}` : kind });
      }),
    }),
  );
  fill(
    byId(id),
    rows.length ? [element("thead", { children: heads }), element("tbody", { children: body })] : [],
  );
}

function trend(points) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "trend");
  svg.setAttribute("viewBox", "0 0 100 20");
  svg.setAttribute("preserveAspectRatio", "none");
  const most = Math.max(1, ...points);
  const line = svg.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "polyline"));
  const places = points.map((value, index) => `${(100 * index) / Math.max(1, points.length - 1)},${19 - (18 * value) / most}`);
  line.setAttribute("points", places.join(" "));
  return svg;
}

// Where Prefect's own UI shows the runs of a tenant, by state or deployment.
function runs(tenant, search) {
  const address = site.tenants[tenant];
  return address && Object.values(search).every(Boolean) ? `${address}/runs?${new URLSearchParams(search)}` : undefined;
}

// --- What each part shows

function overview(figures) {
  const tenant = byId("tenant").value || Object.keys(site.tenants)[0];
  const failed = figures.sum("flow_runs_ended", { state: FAILED });
  const online = figures.sum("workers_online");
  const declared = figures.sum("workers_declared");
  const state = (name, type) => ({ text: count(figures.sum("flow_runs", { state: type })), link: runs(tenant, { state: name }) });
  tiles("overview", {
    Running: { ...state("Running", "RUNNING"), kind: "busy" },
    Pending: state("Pending", "PENDING"),
    Scheduled: state("Scheduled", "SCHEDULED"),
    "Due and not begun": count(figures.sum("flow_runs_due")),
    "Longest due": duration(figures.most("flow_runs_due_oldest_seconds")),
    "Completed, 1 h": { text: count(figures.sum("flow_runs_ended", { state: "COMPLETED" })), kind: "good" },
    "Failed, 1 h": { text: count(failed), kind: failed ? "bad" : "", link: runs(tenant, { state: "Failed" }) },
    "Run by nothing": { text: count(figures.sum("flow_runs_dead")), kind: figures.sum("flow_runs_dead") ? "bad" : "" },
    "Workers online": { text: `${count(online)} of ${count(declared)}`, kind: online < declared ? "bad" : "" },
    API: figures.most("api_ready") === undefined
      ? "–"
      : figures.all("api_ready").every(({ value }) => value === 1)
        ? { text: "ready", kind: "good" }
        : { text: "down", kind: "bad" },
  });
}

function flows(figures, quantiles, trends) {
  const rows = new Map();
  const of = ({ tenant = "", flow = "", deployment = "" }) => {
    const key = keyOf({ tenant, flow, deployment });
    return rows.get(key) ?? rows.set(key, { tenant, flow, deployment, open: 0, ended: {}, key }).get(key);
  };
  for (const { labels, value } of figures.all("flow_runs_open")) of(labels).open += value;
  for (const { labels, value } of figures.all("flow_runs_ended")) of(labels).ended[labels.state] = value;
  const sorted = [...rows.values()].sort((a, b) => a.key.localeCompare(b.key));
  table(
    "flows",
    ["flow", "deployment*", "tenant*", "under way", "ended, 1 h", "failed, 1 h", "success", "p95", "trend"],
    sorted.map((row) => {
      const ended = Object.values(row.ended).reduce((sum, value) => sum + value, 0);
      const failed = FAILED.reduce((sum, state) => sum + (row.ended[state] ?? 0), 0);
      const { tenant, flow, deployment } = row;
      const [known] = figures.all("deployment_info", { tenant, flow, deployment });
      const link = runs(tenant, { deployment: known?.labels.id });
      return [
        { text: flow, link },
        deployment,
        tenant,
        { text: count(row.open), kind: row.open ? "busy" : "" },
        count(ended),
        { text: count(failed), kind: failed ? "bad" : "" },
        percent(ended ? (row.ended.COMPLETED ?? 0) / ended : undefined),
        duration(quantiles.get(row.key)),
        { children: trends.has(row.key) ? [trend(trends.get(row.key))] : [] },
      ];
    }),
  );
}

function pools(figures) {
  const ofPool = (name, { tenant, pool }) => figures.most(name, { tenant, pool });
  table(
    "pools",
    ["work pool", "tenant*", "workers online", "declared", "heard from", "under way", "limit", "paused*"],
    figures.all("work_pool_slots_used").map(({ labels, value }) => {
      const online = ofPool("workers_online", labels);
      const declared = ofPool("workers_declared", labels);
      const heard = ofPool("worker_heartbeat_age_seconds", labels);
      return [
        labels.pool,
        labels.tenant,
        { text: count(online), kind: online < declared ? "bad" : "" },
        count(declared),
        heard === undefined ? "–" : `${duration(heard)} ago`,
        count(value),
        count(ofPool("work_pool_slots", labels)),
        ofPool("work_pool_paused", labels) ? { text: "paused", kind: "late" } : "",
      ];
    }),
  );
  table(
    "queues",
    ["work queue", "pool*", "tenant*", "due", "longest due", "under way", "limit", "paused*"],
    figures.all("work_queue_runs_due").map(({ labels, value }) => {
      const most = (name) => figures.most(name, labels);
      return [
        labels.queue,
        labels.pool,
        labels.tenant,
        { text: count(value), kind: value ? "late" : "" },
        duration(most("work_queue_due_oldest_seconds")),
        count(most("work_queue_slots_used")),
        count(most("work_queue_slots")),
        most("work_queue_paused") ? { text: "paused", kind: "late" } : "",
      ];
    }),
  );
}

function database(figures) {
  const version = figures.all("postgresql_info")[0]?.labels.version;
  tiles("database", {
    PostgreSQL: version ?? { text: "no answer", kind: "bad" },
    Size: bytes(figures.most("database_size_bytes")),
    "Oldest transaction": duration(figures.most("transaction_oldest_seconds")),
    "Idle in a transaction": duration(figures.most("transaction_idle_seconds")),
    "Waits for locks": count(figures.most("lock_waits")),
    "Age of transaction IDs": count(figures.most("xid_age")),
  });
  table(
    "schemas",
    ["schema", "size", "rows", "dead rows"],
    figures.all("schema_size_bytes").map(({ labels, value }) => [
      labels.schema,
      bytes(value),
      count(figures.most("schema_live_tuples", labels)),
      count(figures.most("schema_dead_tuples", labels)),
    ]),
  );
  table(
    "connections",
    ["connections of", "used", "allowed"],
    figures.all("connections_used").map(({ labels, value }) => {
      const allowed = figures.most("connections_allowed", labels);
      return [`${labels.of} ${labels.name ?? ""}`, { text: count(value), kind: value >= 0.8 * allowed ? "late" : "" }, count(allowed)];
    }),
  );
}

function backups(figures) {
  table(
    "backups",
    ["backup sets of", "newest", "newest that passed a drill", "newest that was copied"],
    figures.all("backup_set_timestamp_seconds").map(({ labels, value }) => [
      labels.instance,
      since(value),
      since(figures.most("backup_verified_timestamp_seconds", labels)),
      since(figures.most("backup_copied_timestamp_seconds", labels)),
    ]),
  );
  table(
    "jobs",
    ["job", "tenant*", "host*", "last success", "last start", "state*"],
    figures.all("job_scheduled_timestamp_seconds").map(({ labels }) => {
      const most = (name) => figures.most(`job_${name}`, labels);
      const state = most("running") ? { text: "runs", kind: "busy" } : most("failed") ? { text: "failed", kind: "bad" } : "";
      return [
        labels.name,
        labels.tenant ?? "",
        labels.instance,
        since(most("last_success_timestamp_seconds")),
        since(most("last_start_timestamp_seconds")),
        state,
      ];
    }),
  );
  table(
    "certificates",
    ["certificate", "host*", "ends in"],
    figures.all("certificate_end_timestamp_seconds").map(({ labels, value }) => {
      const left = value - Date.now() / 1000;
      return [labels.file, labels.instance, { text: duration(left), kind: left < 7 * 86400 ? "bad" : "" }];
    }),
  );
}

function alerts(found) {
  const firing = found.filter(({ state }) => state === "firing");
  byId("alerts").hidden = !firing.length;
  fill(
    byId("alerts").querySelector("ul"),
    firing.map(({ labels, annotations }) =>
      element("li", { text: `${labels.alertname}: ${annotations.summary}`, kind: labels.severity }),
    ),
  );
}

function age(figures) {
  const written = figures.all("collect_timestamp_seconds").map(({ value }) => value);
  const oldest = written.length ? Date.now() / 1000 - Math.min(...written) : undefined;
  byId("age").textContent = written.length
    ? `Figures of ${duration(oldest)} ago`
    : "Prometheus has no figures: see docs/monitoring.md";
  byId("age").className = written.length && oldest < STALE_SECONDS ? "" : "bad";
}

// --- Charts

const moment = (seconds) => {
  const parts = Number(byId("span").value) > 86400 ? { month: "short", day: "numeric" } : { hour: "2-digit", minute: "2-digit" };
  return new Intl.DateTimeFormat("en-GB", parts).format(1000 * seconds);
};

const charts = new Map();

function chart(id, title, series, times) {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const names = JSON.stringify([dark, series.map(({ label }) => label)]);
  const width = byId(id).clientWidth;
  const known = charts.get(id);
  const data = [times, ...series.map(({ values }) => values)];
  if (known?.names === names) {
    known.plot.setSize({ width, height: 220 });
    known.plot.setData(data);
    return;
  }
  known?.plot.destroy();
  const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") } };
  const options = {
    title,
    width,
    height: 220,
    series: [{}, ...series.map(({ label, colour: name }) => ({ label, stroke: colour(name), width: 2, spanGaps: true }))],
    axes: [{ ...axis, values: (_, ticks) => ticks.map(moment) }, { ...axis, size: 70, values: (_, ticks) => ticks.map(series[0]?.format ?? count) }],
    scales: { y: { range: (_, low, high) => [Math.min(0, low ?? 0), Math.max(1, (high ?? 1) * 1.05)] } },
  };
  charts.set(id, { names, plot: new uPlot(options, data, byId(id)) });
}

async function history(expression, steps) {
  const span = Number(byId("span").value);
  const step = Math.max(5, Math.round(span / steps));
  const end = Math.floor(Date.now() / 1000 / step) * step;
  const { result } = await ask("query_range", { query: expression, start: end - span, end, step });
  const times = Array.from({ length: Math.floor(span / step) + 1 }, (_, index) => end - span + index * step);
  return {
    times,
    series: result.map(({ metric, values }) => {
      const known = new Map(values.map(([time, value]) => [Math.round(time), Number(value)]));
      return { metric, values: times.map((time) => known.get(time) ?? null) };
    }),
  };
}

const ofTenant = () => (byId("tenant").value ? `tenant=${JSON.stringify(byId("tenant").value)}` : "");

async function drawCharts() {
  const lines = [
    ["under way", "--busy", `pgprefect_flow_runs_open{${ofTenant()}}`],
    ["completed, 1 h", "--good", `pgprefect_flow_runs_ended{${ofTenant()}${ofTenant() && ","}state="COMPLETED"}`],
    ["failed, 1 h", "--bad", `pgprefect_flow_runs_ended{${ofTenant()}${ofTenant() && ","}state=~"${FAILED.join("|")}"}`],
  ];
  const found = await Promise.all(lines.map(([, , one]) => history(`sum(max without (instance, job) (${one}))`, 240)));
  chart(
    "runs-chart",
    "Flow runs",
    lines.map(([label, colour], index) => ({
      label,
      colour,
      values: found[index].series[0]?.values ?? found[index].times.map(() => null),
    })),
    found[0].times,
  );
  const sizes = await history("max without (instance, job) (pgprefect_schema_size_bytes)", 240);
  const colours = ["--busy", "--good", "--late", "--bad"];
  chart(
    "size-chart",
    "Size of the schemas",
    sizes.series.map(({ metric, values }, index) => ({
      label: metric.schema,
      colour: colours[index % colours.length],
      values,
      format: bytes,
    })),
    sizes.times,
  );
  const ended = "sum by (tenant, flow, deployment) (max without (instance, job) (pgprefect_flow_runs_ended))";
  const trends = (await history(ended, 30)).series;
  return new Map(trends.map(({ metric, values }) => [keyOf(metric), values.map((value) => value ?? 0)]));
}

const keyOf = ({ tenant = "", flow = "", deployment = "" }) => JSON.stringify([tenant, flow, deployment]);

// --- Again and again

let trends = new Map();

function fillTenants(figures) {
  const names = [...new Set((figures.byName.get("pgprefect_api_ready") ?? new Map()).values())].map(({ labels }) => labels.tenant);
  const select = byId("tenant");
  const known = [...select.options].map(({ value }) => value);
  for (const name of names.sort()) {
    if (!known.includes(name)) select.append(element("option", { text: name, value: name }));
  }
}

async function show() {
  const [now, quantiles, firing] = await Promise.all([
    ask("query", { query: '{__name__=~"pgprefect_.+", __name__!~".+_bucket"}' }),
    ask("query", { query: P95 }),
    ask("alerts", {}),
  ]);
  const figures = new Figures(now.result);
  fillTenants(figures);
  age(figures);
  alerts(firing.alerts);
  overview(figures);
  flows(figures, new Map(quantiles.result.map(({ metric, value }) => [keyOf(metric), Number(value[1])])), trends);
  pools(figures);
  database(figures);
  backups(figures);
}

// One after the other: a slow Prometheus is not asked twice at a time.
async function repeat(work, milliseconds) {
  try {
    if (!document.hidden) await work();
  } catch (error) {
    byId("age").textContent = `Prometheus does not answer: ${error.message}`;
    byId("age").className = "bad";
  }
  setTimeout(() => repeat(work, milliseconds), milliseconds);
}

const draw = async () => {
  trends = await drawCharts();
};

site = await (await fetch("site.json")).json();
for (const id of ["tenant", "span"]) {
  byId(id).addEventListener("change", () => Promise.all([show(), draw()]).catch(() => {}));
}
addEventListener("resize", () => draw().catch(() => {}));
repeat(show, REFRESH_MS);
repeat(draw, CHARTS_MS);
