"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";
  const STATES = ["failed", "empty", "doubtful", "done", "running", "waiting"];

  /** An element with text and attributes: names of files are text, never markup. */
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  }
  const number = (value, digits) => (value === null || value === undefined ? "" : value.toFixed(digits));
  const milliliters = (value) =>
    value === null || value === undefined ? "" : value >= 100 ? value.toFixed(0) : value.toFixed(2);
  const color = (parts) => `rgb(${parts.map((part) => Math.round(255 * part)).join(" ")})`;
  const isUnusual = (one) => one.outlier.some(Boolean);
  const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

  // ---- Columns of the table: what is shown, and what is sorted by (null comes last).
  const columns = [
    { title: "", key: null },
    { title: "Case", key: (one) => one.name },
    { title: "State", key: (one) => STATES.indexOf(one.state) },
    { title: "Confidence", key: (one) => one.confidence, numeric: true, id: "confidence" },
    ...data.structures.map((structure, index) => ({
      title: `${structure.name}, ml`, key: (one) => one.ml[index], numeric: true, structure, index,
    })),
    { title: "Seconds", key: (one) => one.seconds, numeric: true },
    { title: "MB", key: (one) => one.memory, numeric: true },
  ];
  let sorted = { column: columns.find((column) => column.id === "confidence"), descending: false };
  const compareText = new Intl.Collator(undefined, { numeric: true }).compare;

  function compare(a, b) {
    const [x, y] = [sorted.column.key(a), sorted.column.key(b)];
    const missing = (value) => value === null || value === undefined;
    if (missing(x) || missing(y)) return missing(x) - missing(y) || compareText(a.name, b.name);
    const order = typeof x === "string" ? compareText(x, y) : x - y;
    return (sorted.descending ? -order : order) || compareText(a.name, b.name);
  }

  // ---- Rows, made once; pictures get their content when they come into sight.
  const pictures = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      entry.target.src = entry.target.caseShown.preview;
      pictures.unobserve(entry.target);
    }
  }, { rootMargin: "600px" });

  function thumbnail(one) {
    if (!one.preview) return make("div", { class: "no-thumb" });
    const image = make("img", { class: "thumb", alt: "", decoding: "async" });
    image.caseShown = one;
    pictures.observe(image);
    return image;
  }

  function row(one) {
    const cells = [
      make("td", {}, thumbnail(one)),
      make("td", { class: "name" }, make("button", { type: "button" }, one.name),
        one.reason ? make("small", {}, one.reason) : null),
      make("td", {}, make("span", { class: `state ${one.state}` }, one.state)),
      make("td", { class: "number" }, ...confidence(one.confidence)),
      ...one.ml.map((value, index) =>
        make("td", {
          class: `number${one.outlier[index] ? " unusual" : ""}`,
          title: one.outlier[index] ? "unlike the rest of the cohort" : null,
        }, milliliters(value))),
      make("td", { class: "number" }, number(one.seconds, 1)),
      make("td", { class: "number" }, number(one.memory, 0)),
    ];
    const element = make("tr", { "data-case": one.name }, ...cells);
    element.addEventListener("click", () => open(one));
    return element;
  }

  function confidence(value) {
    if (value === null || value === undefined) return [""];
    const bar = make("i");
    bar.style.width = `${Math.round(100 * value)}%`;
    return [make("span", { class: "meter" }, bar), number(value, 2)];
  }

  const rows = new Map(data.cases.map((one) => [one, row(one)]));

  // ---- Filters
  const wantedStates = new Set(STATES);
  function isShown(one) {
    const text = byId("search").value.trim().toLowerCase();
    const most = Number(byId("most").value) / 100;
    return wantedStates.has(one.state)
      && (!text || `${one.name} ${one.reason}`.toLowerCase().includes(text))
      && (!byId("only-outliers").checked || isUnusual(one))
      && (most >= 1 || (one.confidence !== null && one.confidence <= most));
  }

  let shown = [];
  function refresh() {
    shown = data.cases.filter(isShown).sort(compare);
    byId("body").replaceChildren(...shown.map((one) => rows.get(one)));
    byId("shown").textContent = `${shown.length} of ${plural(data.cases.length, "case")}`;
    byId("most-shown").textContent = (Number(byId("most").value) / 100).toFixed(2);
    for (const column of columns) {
      if (!column.key) continue;
      const direction = sorted.descending ? "descending" : "ascending";
      column.head.setAttribute("aria-sort", column === sorted.column ? direction : "none");
    }
  }

  function makeHead() {
    for (const column of columns) {
      const button = column.key && make("button", { type: "button" },
        column.structure ? swatch(column.structure) : null, column.title);
      column.head = make("th", { scope: "col", class: column.numeric ? "number" : null }, button || "");
      if (button) {
        button.addEventListener("click", () => {
          sorted = { column, descending: sorted.column === column && !sorted.descending };
          refresh();
        });
      }
      byId("head").append(column.head);
    }
  }

  function swatch(structure) {
    const element = make("span", { class: "swatch" });
    element.style.background = color(structure.color);
    return element;
  }

  function makeStates() {
    for (const state of STATES) {
      const count = data.cases.filter((one) => one.state === state).length;
      if (!count) continue;
      const button = make("button", { type: "button", class: `state ${state}`, "aria-pressed": "true",
        "data-state": state }, `${count} ${state}`);
      button.addEventListener("click", () => {
        if (!wantedStates.delete(state)) wantedStates.add(state);
        button.setAttribute("aria-pressed", wantedStates.has(state));
        refresh();
      });
      byId("states").append(button);
    }
  }

  function reset() {
    byId("search").value = "";
    byId("only-outliers").checked = false;
    byId("most").value = 100;
    for (const state of STATES) wantedStates.add(state);
    for (const button of byId("states").children) button.setAttribute("aria-pressed", "true");
    refresh();
  }

  // ---- One case
  let opened = null;
  function open(one) {
    opened = one;
    byId("case-name").textContent = one.name;
    byId("case-body").replaceChildren(...described(one));
    if (!byId("case").open) byId("case").showModal();
    history.replaceState(null, "", `#${encodeURIComponent(one.name)}`);
  }

  function described(one) {
    const facts = [
      ["State", one.state], ["Why", one.reason], ["What to do", one.hint],
      ["Slices to look at first", one.review.map((slice) =>
        `${slice.index} (${Math.round(slice.expected_errors)} voxels expected to be wrong)`).join(", ")],
      ["Notes", one.notes.join(" ")], ["Source", one.source], ["Outputs", one.outputs.join(", ")],
      ["Grid (k, j, i)", one.shape && one.shape.join(" x ")],
      ["Spacing (i, j, k), mm", one.spacing && one.spacing.join(" x ")],
      ["Seconds", number(one.seconds, 1)], ["Peak memory, MB", number(one.memory, 0)],
      ["Computer", one.computer], ["Software", one.software && `oflsam2 ${one.software}`],
      ["SHA-256 of the input", one.sha256],
    ];
    const list = make("dl");
    for (const [name, value] of facts) if (value) list.append(make("dt", {}, name), make("dd", {}, value));
    const picture = one.preview && make("img", {
      src: one.preview, alt: "Slices with the segmentation; below, doubtful voxels from yellow to red",
    });
    return [picture || "", one.confidence === null ? "" : structureTable(one), list];
  }

  function structureTable(one) {
    const table = make("table", {}, make("tr", {},
      ...["Structure", "ml", "Confidence", ""].map((title) => make("th", {}, title))));
    data.structures.forEach((structure, index) => {
      table.append(make("tr", {},
        make("td", {}, swatch(structure), structure.name),
        make("td", { class: "number" }, milliliters(one.ml[index])),
        make("td", { class: "number" }, ...confidence(one.sure[index])),
        make("td", { class: one.outlier[index] ? "unusual" : null },
          one.outlier[index] ? "unlike the rest of the cohort" : "")));
    });
    return table;
  }

  function step(by) {
    const place = shown.indexOf(opened);
    const next = shown[place + by];
    if (next) open(next);
  }

  // ---- Histogram of volumes
  const drawn = (tag, attributes, text) => {
    const element = document.createElementNS(SVG, tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    return element;
  };

  function histogram() {
    const index = Number(byId("structure").value);
    const known = data.cases.filter((one) => one.ml[index] > 0);
    const missing = data.cases.filter((one) => one.ml[index] === 0).length;
    byId("histogram").replaceChildren();
    const unusual = known.filter((one) => one.outlier[index]);
    byId("outlier-note").textContent = [
      plural(known.length, "case"),
      missing ? `not found in ${missing}` : "",
      known.length < 8 ? "too few to say which are unusual" : `${unusual.length} unusual (red, click to open)`,
    ].filter(Boolean).join("; ") + ".";
    if (!known.length) return;
    const [width, height, left, bottom] = [900, 230, 46, 44];
    const values = known.map((one) => one.ml[index]);
    let [low, high] = [Math.min(...values), Math.max(...values)];
    if (low === high) [low, high] = [low * 0.9, high * 1.1];
    const count = Math.min(40, Math.max(5, Math.ceil(2 * Math.sqrt(values.length))));
    const bins = new Array(count).fill(0);
    for (const value of values) bins[Math.min(count - 1, Math.floor(count * (value - low) / (high - low)))] += 1;
    const tallest = Math.max(...bins);
    const x = (value) => left + (width - left - 10) * (value - low) / (high - low);
    const y = (cases) => height - bottom - (height - bottom - 16) * cases / tallest;
    const picture = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
    picture.append(drawn("title", {}, `Volumes of ${data.structures[index].name}`));
    bins.forEach((cases, bin) => {
      if (!cases) return;
      const [from, to] = [low + (high - low) * bin / count, low + (high - low) * (bin + 1) / count];
      const bar = drawn("rect", { class: "bar", x: x(from) + 0.5, y: y(cases),
        width: x(to) - x(from) - 1, height: height - bottom - y(cases) });
      bar.append(drawn("title", {}, `${milliliters(from)} to ${milliliters(to)} ml: ${plural(cases, "case")}`));
      picture.append(bar);
    });
    picture.append(drawn("line", { class: "axis", x1: left, x2: width - 10, y1: height - bottom, y2: height - bottom }));
    picture.append(drawn("text", { x: left - 6, y: y(tallest) + 4, "text-anchor": "end" }, tallest));
    for (let tick = 0; tick <= 4; tick += 1) {
      const value = low + (high - low) * tick / 4;
      const anchor = ["start", "middle", "middle", "middle", "end"][tick];
      picture.append(drawn("text", { x: x(value), y: height - 3, "text-anchor": anchor },
        `${milliliters(value)}${tick === 4 ? " ml" : ""}`));
    }
    for (const one of unusual) {
      const mark = drawn("circle", { class: "outlier", cx: x(one.ml[index]), cy: height - bottom + 11, r: 7,
        "data-case": one.name });
      mark.append(drawn("title", {}, `${one.name}: ${milliliters(one.ml[index])} ml`));
      mark.addEventListener("click", () => open(one));
      picture.append(mark);
    }
    byId("histogram").append(picture);
  }

  // ---- The whole page
  function fill() {
    document.title = `${data.title}: cohort`;
    byId("title").textContent = data.title;
    const names = data.structures.map((structure) => structure.name).join(", ");
    byId("made").textContent = [
      plural(data.cases.length, "case"), names,
      data.task.method && `method ${data.task.method}`,
      data.task.backbone && `backbone ${data.task.backbone}`,
      data.software.oflsam2 && `oflsam2 ${data.software.oflsam2}`,
      `written ${data.written}`,
    ].filter(Boolean).join(" \u00b7 ");
    const unfinished = data.cases.filter((one) => one.state === "waiting" || one.state === "running").length;
    const warnings = [
      unfinished ? `${plural(unfinished, "case")} not finished yet.` : "",
      data.damaged_lines ? `The manifest is damaged in ${plural(data.damaged_lines, "line")}: some cases may be missing here.` : "",
    ].filter(Boolean);
    byId("warning").textContent = warnings.join(" ");
    byId("warning").hidden = !warnings.length;

    const failed = data.cases.filter((one) => one.state === "failed");
    byId("failures").hidden = !failed.length;
    for (const one of failed) {
      const button = make("button", { type: "button", class: "link" }, one.name);
      button.addEventListener("click", () => open(one));
      byId("failure-list").append(make("li", {}, button, " ", one.reason,
        one.hint ? make("span", { class: "hint" }, ` ${one.hint}`) : null));
    }

    const measured = data.structures.filter((_, index) => data.cases.some((one) => one.ml[index] > 0));
    byId("volumes").hidden = !measured.length;
    data.structures.forEach((structure, index) => {
      if (measured.includes(structure)) byId("structure").append(make("option", { value: index }, structure.name));
    });

    if (data.left_out.length) {
      byId("left-out").hidden = false;
      byId("left-out").querySelector("summary").textContent = `Left out: ${data.left_out.length} that are no cases`;
      for (const [path, why] of data.left_out) byId("left-out").querySelector("ul").append(make("li", {}, `${path}: ${why}`));
    }
  }

  fill();
  makeHead();
  makeStates();
  refresh();
  if (byId("structure").options.length) histogram();
  byId("structure").addEventListener("change", histogram);
  for (const id of ["search", "only-outliers", "most"]) byId(id).addEventListener("input", refresh);
  byId("reset").addEventListener("click", reset);
  byId("before").addEventListener("click", () => step(-1));
  byId("after").addEventListener("click", () => step(1));
  byId("case").addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  byId("case").addEventListener("close", () => history.replaceState(null, "", location.pathname + location.search));
  const wanted = decodeURIComponent(location.hash.slice(1));
  const linked = data.cases.find((one) => one.name === wanted);
  if (linked) open(linked);
})();
