// Dashboards of a page: every state of one is stored, drawn when the notebook ran. A control looks a state up; nothing is computed.
"use strict";

const SEPARATOR = "=";
const MOST_QUERIES = 12; // rows of a list below a figure
const SETTLED = 120; // milliseconds after the last move until the address says it: browsers refuse to write it often

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// Numbers of an address have no commas.
const bare = (label) => label.replace(/(?<=\d),(?=\d{3})/g, "");

// The letters of a text that is written for plotly, in which markup is escaped.
const literal = (text) => new DOMParser().parseFromString(text, "text/html").body.textContent;

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return { ...JSON.parse(await new Response(stream).text()), made: [], figures: [] };
}

class Dashboard {
  constructor(place) {
    const stored = JSON.parse(place.querySelector("script").textContent);
    const { title, slug, action, order } = stored;
    Object.assign(this, { place, title, slug, action, order });
    this.controls = new Map(stored.groups.flatMap((group) => group.controls).map((control) => [control.name, control]));
    this.plot = element("div", { class: "plot-target" });
    this.status = element("p", { class: "status", role: "status" });
    this.settings = element("details", { class: "settings" }, element("summary", {}, "Choose settings by name, to list the queries that fail"));
    this.settings.addEventListener("toggle", () => this.offerSettings());
    this.lost = element("div", { class: "lost", role: "status" });
    this.groups = stored.groups.map((group) => [this.group(group), group.only]).filter(([group]) => group);
    place.append(
      element("p", { class: "dashboard-title" }, this.title),
      element("div", { class: "groups" }, ...this.groups.map(([group]) => group)),
      element("div", { class: "plot" }, this.plot),
      this.status,
      element("div", { class: "brushed" }, this.settings, this.lost),
      ...this.beyond(),
      ...this.again(),
    );
    this.content = unpacked(stored.states);
    this.reset();
  }

  movable() {
    return [...this.controls.values()].filter((control) => control.kind !== "fixed");
  }

  group({ label, controls }) {
    const movable = controls.filter((control) => control.kind !== "fixed");
    if (!movable.length) return null;
    return element("fieldset", {}, element("legend", {}, label), ...movable.map((control) => this.input(control)));
  }

  input(control) {
    const changed = (place) => this.set(control, place);
    if (control.kind === "many") {
      const boxes = control.labels.map((label, place) => {
        const box = element("input", { type: "checkbox" });
        box.addEventListener("change", () => {
          const others = control.place.filter((other) => other !== place);
          changed(box.checked ? [...others, place].sort((a, b) => a - b) : others);
        });
        return [box, element("label", { class: "one" }, box, label)];
      });
      control.show = (chosen) => boxes.forEach(([box], place) => (box.checked = chosen.includes(place)));
      return element("div", { class: "many", role: "group", "aria-label": control.label }, ...boxes.map((box) => box[1]));
    }
    const label = element("label", { title: control.hint }, element("span", {}, control.label));
    if (control.kind === "slider") {
      const slider = element("input", { type: "range", "aria-label": control.label, min: 0, max: control.labels.length - 1, step: 1 });
      const told = element("output");
      slider.addEventListener("input", () => changed(Number(slider.value)));
      control.show = (place) => {
        slider.value = place;
        slider.setAttribute("aria-valuetext", control.labels[place]);
        told.textContent = control.labels[place];
      };
      label.append(slider, told);
      if (control.plays) return element("div", {}, label, this.player(control));
    } else {
      const list = element("select", {}, ...control.labels.map((text, place) => element("option", { value: place }, text)));
      list.addEventListener("change", () => changed(Number(list.value)));
      control.show = (place) => (list.value = place);
      label.append(list);
    }
    return label;
  }

  // Buttons that move a slider step by step, and play it until nothing changes any more.
  player(control) {
    const button = (text, act) => {
      const made = element("button", { type: "button" }, text);
      made.addEventListener("click", act);
      return made;
    };
    const last = control.labels.length - 1;
    const to = (place) => this.set(control, Math.max(0, Math.min(last, place)));
    let timer = null;
    const stop = () => {
      clearInterval(timer);
      timer = null;
      play.textContent = "play";
    };
    const by = (steps) => () => {
      stop();
      to(control.place + steps);
    };
    const play = button("play", async () => {
      if (timer) return stop();
      const { states } = await this.content;
      const ends = () => control.place === last || this.same(states, control, control.place + 1);
      if (ends()) to(0);
      play.textContent = "pause";
      timer = setInterval(() => (ends() ? stop() : to(control.place + 1)), control.plays);
    });
    const buttons = [button("back", by(-1)), play, button("next", by(1))];
    return element("div", { class: "player", role: "group", "aria-label": `play ${control.label}` }, ...buttons);
  }

  // Whether the figure stays as it is at another place of a control.
  same(states, control, place) {
    return JSON.stringify(states[this.number()]) === JSON.stringify(states[this.number(control, place)]);
  }

  // What only a kernel can do, and how to start one.
  beyond() {
    const fixed = [...this.controls.values()].filter((control) => control.kind === "fixed");
    const what = [
      ...(this.action ? [`the button “${this.action}”`] : []),
      ...fixed.map((control) => (control.value ? `${control.name} (here ${control.value})` : control.name)),
    ];
    if (!what.length) return [];
    const command = element("code", {}, this.place.dataset.command);
    return [element("p", { class: "kernel" }, `Needs a kernel: ${what.join(", ")}. Run `, command, ".")];
  }

  // The command whose report opens with this view.
  again() {
    const { repeat } = this.place.dataset;
    if (!repeat || !this.movable().length) return [];
    this.command = element("code");
    const how = element("details", { class: "kernel" }, element("summary", {}, "Repeat this view"), this.command);
    this.repeat = repeat;
    return [how];
  }

  tellCommand() {
    if (!this.command) return;
    const state = new URLSearchParams();
    for (const control of this.movable()) {
      if (String(control.place) !== String(control.start)) state.set(`${this.slug}.${control.name}`, this.told(control));
    }
    this.command.textContent = `${this.repeat} -p 'view=${state.toString().replaceAll("'", "%27")}'`;
  }

  reset() {
    for (const control of this.movable()) control.place = control.start;
  }

  set(control, place) {
    control.place = place;
    writeAddress();
    return this.draw();
  }

  // The page's order of states is Python's `itertools.product` over the controls in `order`.
  number(changed = null, place = 0) {
    return this.order.reduce((sum, name) => {
      const control = this.controls.get(name);
      return sum * control.labels.length + (control === changed ? place : control.place);
    }, 0);
  }

  async draw() {
    for (const control of this.movable()) {
      if (control.shown !== control.place) control.show((control.shown = control.place));
    }
    for (const [group, only] of this.groups) {
      const control = only && this.controls.get(only[0]);
      group.hidden = Boolean(control) && control.labels[control.place] !== only[1];
    }
    const content = await this.content;
    const number = this.number();
    const figure = this.filtered((content.figures[number] ??= this.whole(content.states[number], content)));
    this.status.textContent = figure.error ?? "";
    this.tellCommand();
    this.lost.replaceChildren();
    this.settings.hidden = !figure.layout?.meta?.failing;
    if (figure.error) return;
    await show(this.plot, figure);
    this.offerSettings();
    if (!this.listens) {
      this.listens = true;
      this.plot.on("plotly_selected", (event) => this.listFramed(event?.points ?? []));
      this.plot.on("plotly_deselect", () => this.listFramed([]));
    }
  }

  // The settings of the marks in the figure, to be chosen without a mouse.
  offerSettings() {
    this.settings.querySelector(".many")?.remove();
    if (this.settings.hidden || !this.settings.open) return;
    const { failing } = this.plot.layout.meta;
    const marked = this.plot.data.flatMap((trace) => (trace.customdata ?? []).map((told) => told[1]));
    const boxes = [...new Set(marked)].filter((label) => failing[label]).map((label) => {
      const box = element("input", { type: "checkbox", value: label });
      box.addEventListener("change", () => this.listChosen());
      return element("label", { class: "one" }, box, literal(label));
    });
    this.settings.append(element("div", { class: "many", role: "group", "aria-label": "settings whose failing queries are listed" }, ...boxes));
  }

  boxes() {
    return [...this.settings.querySelectorAll("input")];
  }

  listFramed(points) {
    const labels = new Set(points.map((point) => point.customdata?.[1]));
    for (const box of this.boxes()) box.checked = labels.has(box.value);
    this.list(labels);
  }

  // Marks of the settings that are ticked stand out, as if they were framed.
  listChosen() {
    const labels = new Set(this.boxes().filter((box) => box.checked).map((box) => box.value));
    const chosen = ({ customdata }) => customdata?.flatMap((told, place) => (labels.has(told[1]) ? [place] : []));
    Plotly.restyle(this.plot, { selectedpoints: this.plot.data.map((trace) => (labels.size ? chosen(trace) ?? [] : null)) });
    this.list(labels);
  }

  // What settings lose, as `search_figures.failing_in` lists it.
  list(chosen) {
    const meta = this.plot.layout.meta;
    const labels = new Set([...chosen].filter((label) => meta?.failing?.[label]));
    this.lost.replaceChildren();
    if (!labels.size) return;
    const lost = new Map();
    for (const [query, missing] of [...labels].flatMap((label) => meta.failing[label])) {
      lost.set(query, [...(lost.get(query) ?? []), missing]);
    }
    const sum = (shares) => shares.reduce((total, share) => total + share, 0);
    const rows = [...lost].sort((a, b) => sum(b[1]) - sum(a[1]) || a[0] - b[0]);
    const settings = `${labels.size} setting${labels.size === 1 ? "" : "s"} chosen`;
    this.lost.append(element("p", {}, `${settings}: ${rows.length} of ${meta.queries} queries lose a true item.`));
    if (!rows.length) return;
    const row = (kind, cells) => element("tr", {}, ...cells.map((text) => element(kind, {}, String(text))));
    const shown = rows.slice(0, MOST_QUERIES);
    const body = shown.map(([query, shares]) => row("td", [query, shares.length, `${Math.round((100 * sum(shares)) / shares.length)}%`]));
    this.lost.append(element("table", {}, row("th", ["query", "settings that lose", "missing"]), ...body));
    if (rows.length > shown.length) this.lost.append(element("p", {}, `and ${rows.length - shown.length} more`));
  }

  // A stored part is made whole once: plotly does not draw again what is the same object as before.
  whole(value, content) {
    if (Array.isArray(value)) return value.map((part) => this.whole(part, content));
    if (value === null || typeof value !== "object") return value;
    if ("$" in value) return (content.made[value.$] ??= this.whole(content.parts[value.$], content));
    return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, this.whole(part, content)]));
  }

  // As `stored_states.only`: leaves out the traces and annotations of what is not chosen.
  filtered(figure) {
    const many = this.movable().find((control) => control.kind === "many");
    if (!many || figure.error) return figure;
    if (!many.place.length) return { error: `ValueError: choose at least one of the ${many.name}` };
    const left = new Set(many.traces.filter((_, place) => !many.place.includes(place)));
    const data = figure.data.filter((trace) => !left.has(trace.legendgroup || trace.name));
    const annotations = (figure.layout.annotations ?? []).filter((note) => !left.has(note.name));
    return { ...figure, data, layout: { ...figure.layout, annotations } };
  }

  // What a control is set to, as the address bar says it, and back; null if it has no such value.
  told(control) {
    return control.kind === "many"
      ? control.place.map((place) => control.labels[place]).join("|")
      : bare(control.labels[control.place]);
  }

  heard(control, text) {
    const labels = control.labels.map(bare);
    if (control.kind !== "many") return labels.includes(bare(text)) ? labels.indexOf(bare(text)) : null;
    const places = text.split("|").map((part) => control.labels.indexOf(part));
    return places.includes(-1) ? null : places;
  }
}

const dashboards = [...document.querySelectorAll(".dashboard")].map((place) => new Dashboard(place));

// A control is called by its name where one dashboard alone has it, else by the dashboard's name, too: "compare-methods.k".
// That longer name is always understood.
const addresses = new Map();
const longer = new Map();
{
  const names = dashboards.flatMap((dashboard) => dashboard.movable().map((control) => control.name));
  dashboards.forEach((dashboard) => {
    for (const control of dashboard.movable()) {
      const alone = names.filter((name) => name === control.name).length === 1;
      const full = `${dashboard.slug}.${control.name}`;
      longer.set(full, [dashboard, control]);
      addresses.set(alone ? control.name : full, [dashboard, control]);
    }
  });
}

let unwritten = null;

function writeAddress() {
  clearTimeout(unwritten);
  unwritten = setTimeout(writeAddressNow, SETTLED);
}

function writeAddressNow() {
  const state = new URLSearchParams();
  for (const [name, [dashboard, control]] of addresses) {
    if (String(control.place) !== String(control.start)) state.set(name, dashboard.told(control));
  }
  const text = state.toString();
  history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
}

// Sets the controls as the address says, and returns the first dashboard that it names.
function readAddress() {
  const hash = location.hash.slice(1);
  let first = null;
  const unknown = new Map();
  if (hash && !hash.includes(SEPARATOR)) return null; // a heading of the page
  for (const dashboard of dashboards) dashboard.reset();
  for (const [name, text] of new URLSearchParams(hash)) {
    const [dashboard, control] = addresses.get(name) ?? longer.get(name) ?? [];
    if (!dashboard) continue;
    first ??= dashboard;
    const place = dashboard.heard(control, text);
    if (place === null) unknown.set(dashboard, `The address names ${name} = ${text}, which is not stored on this page.`);
    else control.place = place;
  }
  for (const dashboard of dashboards) {
    dashboard.draw().then(() => unknown.has(dashboard) && (dashboard.status.textContent = unknown.get(dashboard)));
  }
  return first;
}

addEventListener("hashchange", readAddress);
readAddress()?.place.scrollIntoView();
