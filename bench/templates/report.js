// Draws the report's charts from the data in the page, and lets the reader choose and sort.
"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const packed = read("data"), charts = read("charts"), looks = read("looks");
  const places = new Map(packed.orders.map(([budget, specs]) =>
    [budget, new Map(specs.map((method, place) => [packed.methods[method], place]))]));
  const references = new Map(packed.references);
  const kinds = new Map(packed.methods.map((method, at) => [method, packed.kinds[at]]));
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const NARROW = 560, ERRORS = 1; // of a log: 1 leaves warnings out

  // A table's rows as objects, with what follows from the method, the budget and the task.
  const rows = (name) => {
    const { columns, rows } = packed.tables[name];
    return rows.map((values) => {
      const row = {};
      columns.forEach((column, at) => {
        const list = packed.coded[column];
        row[column] = list ? packed[list][values[at]] : values[at];
      });
      row.kind = kinds.get(row.method);
      row.order = places.get(row.budget).get(row.method);
      if (row.counts) row.classes = packed.classes[packed.tasks.indexOf(row.task)];
      return row;
    });
  };
  const tables = Object.fromEntries(Object.keys(packed.tables).map((name) => [name, rows(name)]));

  const bar = document.querySelector(".choices");
  const chosen = (name) => bar.querySelector(`[data-choice="${name}"]`).value;
  const views = new Map();

  // What a chart shows now: the page's budget and method, its own task.
  const state = (figure) => {
    const budget = Number(chosen("budget")), task = figure.querySelector('[data-choice="task"]');
    return { budget, method: chosen("method"), reference: references.get(budget) || "",
             ...(task ? { task: task.value } : {}) };
  };

  // The rows that a chart shows now, and how many lines they need.
  const shown = (chart, now) => chart.tables.flatMap((name) => tables[name]).filter((row) =>
    (!chart.budgets || row.budget === now.budget) && (!chart.tasks || row.task === now.task) &&
    (!chart.own || row.method === now.method) &&
    (!chart.against || (row.against === "reference") === (chart.against === "reference")));
  // The ends of a logarithmic axis of errors.
  const ends = (chart, now) => {
    const errors = shown(chart, now).map((row) => row.error).filter((error) => error !== undefined);
    return errors.length ? { low: 0.8 * Math.min(...errors), high: Math.min(100, 1.2 * Math.max(...errors)) } : {};
  };
  const lines = (chart, now) => {
    const found = shown(chart, now);
    if (chart.own) return found.length ? found[0].classes.length : 0;
    return new Set(found.map((row) => JSON.stringify([row.method, row.against]))).size;
  };

  const note = (figure, some) => {
    figure.querySelector(".empty").hidden = some;
    figure.querySelector(".chart").hidden = !some;
  };

  const draw = async (figure) => {
    const chart = charts[figure.dataset.chart], place = figure.querySelector(".chart");
    const now = state(figure), count = lines(chart, now);
    note(figure, count > 0);
    if (views.has(figure)) views.get(figure).finalize();
    views.set(figure, { count, finalize() {} });
    if (!count) return;
    Object.assign(now, ends(chart, now));
    const narrow = place.clientWidth < NARROW;
    const spec = structuredClone(chart.spec), config = structuredClone(looks[dark.matches ? "dark" : "light"]);
    spec.width = "container";
    spec.autosize = { type: "fit-x", contains: "padding" };
    spec.params.forEach((param) => { if (param.name in now) param.value = now[param.name]; });
    spec.params.find((param) => param.name === "narrow").value = narrow;
    spec.datasets = { ...spec.datasets };
    chart.tables.forEach((name) => { spec.datasets[name] = tables[name]; });
    if (narrow) {
      config.axisY = { ...config.axisY, labelLimit: 0.4 * place.clientWidth, labelFontSize: 9 };
      config.legend.columns = 2;
    }
    if (spec.height.step) spec.height = count * (narrow && !chart.own ? 25 : spec.height.step);
    const embedded = await vegaEmbed(place, spec, {
      config, renderer: "svg", logLevel: ERRORS, downloadFileName: `${document.body.dataset.suite}-${figure.dataset.chart}`,
      actions: { export: true, source: false, compiled: false, editor: false },
    });
    views.set(figure, { count, view: embedded.view, finalize: embedded.finalize });
  };

  const update = (figure) => {
    if (!views.has(figure)) return;
    const chart = charts[figure.dataset.chart], now = state(figure), { view, count } = views.get(figure);
    if (!view || lines(chart, now) !== count) { draw(figure); return; }
    Object.assign(now, ends(chart, now));
    Object.entries(now).forEach(([name, value]) => view.signal(name, value));
    view.runAsync();
  };

  const figures = [...document.querySelectorAll("figure[data-chart]")];
  const boards = [...document.querySelectorAll(".board")];
  const refresh = () => {
    boards.forEach((board) => { board.hidden = board.dataset.budget !== chosen("budget"); });
    document.querySelectorAll("tr[data-method]").forEach((row) =>
      row.classList.toggle("chosen", row.dataset.method === chosen("method")));
    figures.forEach(update);
  };

  // Sorting: what has no value stays last, whichever way.
  const sort = (head) => {
    const table = head.closest("table"), at = [...head.parentNode.children].indexOf(head);
    const up = head.getAttribute("aria-sort") !== "ascending";
    head.parentNode.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = (row) => row.children[at].dataset.key ?? "";
    const numeric = head.classList.contains("number");
    const compare = (a, b) => {
      if (key(a) === "" || key(b) === "") return (key(a) === "") - (key(b) === "");
      const order = numeric ? key(a) - key(b) : key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0;
      return up ? order : -order;
    };
    const body = table.tBodies[0];
    body.append(...[...body.rows].sort(compare));
  };

  document.querySelectorAll("table.sortable th").forEach((head) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(head));
    head.append(button);
  });
  bar.hidden = false;
  figures.forEach((figure) => figure.querySelectorAll("label").forEach((label) => { label.hidden = false; }));
  bar.addEventListener("change", refresh);
  figures.forEach((figure) => figure.addEventListener("change", () => update(figure)));
  boards.forEach((board) => board.addEventListener("click", (event) => {
    const row = event.target.closest("tbody tr");
    if (!row) return;
    bar.querySelector('[data-choice="method"]').value = row.dataset.method;
    refresh();
  }));
  refresh();

  // A chart is drawn when the reader comes near it; anew when the ground changes.
  const near = new IntersectionObserver((entries) => entries.forEach((entry) => {
    if (!entry.isIntersecting) return;
    near.unobserve(entry.target);
    draw(entry.target);
  }), { rootMargin: "800px" });
  figures.forEach((figure) => near.observe(figure));
  dark.addEventListener("change", () => [...views.keys()].forEach(draw));
})();
