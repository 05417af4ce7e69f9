// The code grid: a picture to paint codes on. Python owns the codes (oasisvq/app/editor.py); this file draws what Python
// says and numbers what the user does. The whole queue of operations that Python has not acknowledged is sent each time,
// so that a message overtaken by the next one loses nothing; what is on its way is drawn ahead as palette tiles.

const SIDE = 1200; // canvas pixels a side, about: twice what is shown, for sharp lines on dense screens
const NARROW = 480; // pixels under which the palette has half as many columns, for fingers
const TILE = 20; // palette canvas pixels a code, with the gap to the next
const RESEND_MS = 2000;
const QUICK_MS = 60;
const CHANGED = "#ffb13b";
const SELECTED = "#36c5f0";
const USED = "#c77dff";
const LARGEST_BRUSH = 5;
const TOOL_KEYS = { d: "paint", e: "erase", s: "select", a: "ask" };

// Kept across pages.
const settings = { tool: "paint", code: null, brush: 1, before: false, uses: false, lines: true, numbers: false, line: 0 };
const grids = new WeakMap();

export default function (component) {
  const root = component.parentElement;
  if (!grids.has(root)) grids.set(root, new CodeGrid(root));
  const grid = grids.get(root);
  grid.publish = (queue) => component.setStateValue("queue", queue);
  grid.request = (asked) => component.setTriggerValue("asked", asked);
  grid.receive(component.data);
  return () => clearTimeout(grid.timer);
}

class CodeGrid {
  constructor(root) {
    this.find = (selector) => root.querySelector(selector);
    this.buttons = [...root.querySelectorAll("button")];
    this.picture = this.find(".picture");
    this.palette = this.find(".palette");
    this.pending = []; // operations numbered but not acknowledged
    this.stroke = null; // the stroke under way
    this.cursor = null; // cell of the keyboard or the pointer
    this.byKeyboard = false;
    this.canvases = {};
    this.listen();
  }

  // What Python says: data = {epoch, ack, width, height, offset, indices, original, selection, image, before, palette,
  // order, undo, redo, title, marks, edited, selected, layer, layers, tries, copied, offers, likely, meaning}. `offset` is
  // the number of the first of these codes among all codes of the slice, which operations count; `marks` are of the slice
  // before and now; `edited` and `selected` say whether any code of any layer is.

  receive(data) {
    if (data.epoch !== this.epoch) {
      this.pending = [];
      clearTimeout(this.lead);
      this.stroke = null;
      this.seq = data.ack;
      this.epoch = data.epoch;
    }
    if (data.layer !== this.data?.layer) this.end(); // what was painted belongs to the grid that was there
    this.data = data;
    this.pending = this.pending.filter((operation) => operation.seq > data.ack);
    this.indices = [...data.indices];
    this.selection = new Set(data.selection);
    this.ahead = new Set();
    this.pending.forEach((operation) => this.foresee(operation));
    this.stroke?.cells.forEach((cell) => this.foreseeCell(this.stroke, cell));
    if (!data.order.includes(settings.code)) settings.code = data.order[data.order.length >> 1]; // or of another model
    if (this.stroke) this.follow();

    this.step = [SIDE / data.width, SIDE / data.height].map(Math.round); // canvas pixels from a code to the next
    this.buildChoices();
    this.image = this.canvasOf("image");
    this.before = this.canvasOf("before");
    const tiles = this.tiles;
    this.tiles = this.canvasOf("palette");
    if (this.tiles !== tiles) this.drawPalette();
    this.show();
  }

  // The canvas of a grey picture that Python sent; that of last time, where it is the same.
  canvasOf(name) {
    const { bytes } = this.data[name];
    if (this.canvases[name]?.bytes !== bytes) this.canvases[name] = { bytes, canvas: greyCanvas(this.data[name]) };
    return this.canvases[name].canvas;
  }

  buildChoices() {
    const { layers, layer, tries } = this.data;
    const button = (label, pressed, choose) => {
      const made = Object.assign(document.createElement("button"), { type: "button", textContent: label });
      if (pressed !== null) made.setAttribute("aria-pressed", String(pressed));
      made.addEventListener("click", choose);
      return made;
    };
    this.find(".layers").hidden = layers.length < 2;
    this.find(".layers").replaceChildren(
      ...layers.map((name, i) =>
        Object.assign(
          button(name, i === layer, () => this.request({ kind: "layer", number: i })),
          { title: i ? "They hold texture, and keep it where only coarse codes are painted" : "They hold the anatomy" },
        ),
      ),
    );
    this.find(".tries").replaceChildren(
      ...tries.map(([name, label, title]) =>
        Object.assign(button(label, null, () => this.request({ kind: "try", name })), { title }),
      ),
    );
  }

  foresee(operation) {
    const { offset, width, height } = this.data;
    for (const cell of operation.cells ?? [])
      if (cell >= offset && cell < offset + width * height) this.foreseeCell(operation, cell - offset);
  }

  foreseeCell({ kind, code }, cell) {
    if (kind === "select") this.selection.add(cell);
    else if (kind === "deselect") this.selection.delete(cell);
    else {
      this.indices[cell] = kind === "paint" ? code : this.data.original[cell];
      this.ahead.add(cell);
    }
  }

  // What the user does.

  push(operation) {
    this.pending.push({ seq: ++this.seq, ...operation });
    this.send();
    this.show(); // that it is on its way
  }

  send() {
    clearTimeout(this.timer);
    if (!this.pending.length) return;
    this.publish({ epoch: this.epoch, operations: this.pending });
    this.timer = setTimeout(() => this.send(), RESEND_MS);
  }

  begin(cell) {
    let kind = settings.tool;
    if (kind === "pick") return this.pick(cell);
    if (kind === "ask") return this.request({ kind: "likely", place: cell + this.data.offset });
    if (kind === "select" && this.selection.has(cell)) kind = "deselect";
    this.stroke = { kind, code: settings.code, id: this.seq + 1, cells: new Set(), seen: new Set(), last: cell };
    // A quick stroke is over before this and goes in one message; a slow one is shown while it goes on.
    this.lead = setTimeout(() => {
      this.stroke.slow = true;
      this.follow();
    }, QUICK_MS);
    this.extend(cell);
  }

  extend(cell) {
    for (const step of this.line(this.stroke.last, cell)) {
      for (const touched of this.brush(step)) {
        if (this.stroke.seen.has(touched)) continue;
        this.stroke.seen.add(touched);
        this.stroke.cells.add(touched);
        this.foreseeCell(this.stroke, touched);
      }
    }
    this.stroke.last = cell;
    this.follow();
  }

  // One message under way at a time while the pointer is down: the picture follows as fast as the server can.
  follow() {
    if (this.stroke.slow && !this.pending.length) this.flush();
  }

  flush() {
    const { kind, code, id, cells } = this.stroke;
    if (!cells.size) return;
    this.stroke.cells = new Set();
    this.push({ kind, code, stroke: id, cells: [...cells].map((cell) => cell + this.data.offset) });
  }

  end() {
    if (!this.stroke) return;
    clearTimeout(this.lead);
    this.flush();
    this.stroke = null;
  }

  pick(cell) {
    this.choose(this.indices[cell]);
    settings.tool = "paint";
    this.show();
  }

  choose(code) {
    settings.code = code;
    this.say(`Code ${code}`);
    this.request({ kind: "meaning", code });
    this.drawPalette();
    this.show();
  }

  act(action) {
    this.push({ kind: action });
    this.say(action);
  }

  // Cells.

  brush(cell) {
    const { width, height } = this.data;
    const before = (settings.brush - 1) >> 1;
    const top = Math.floor(cell / width) - before;
    const left = (cell % width) - before;
    const cells = [];
    for (let row = Math.max(0, top); row < Math.min(height, top + settings.brush); row++)
      for (let column = Math.max(0, left); column < Math.min(width, left + settings.brush); column++)
        cells.push(row * width + column);
    return cells;
  }

  line(from, to) {
    const { width } = this.data;
    const [r0, c0, r1, c1] = [Math.floor(from / width), from % width, Math.floor(to / width), to % width];
    const steps = Math.max(Math.abs(r1 - r0), Math.abs(c1 - c0), 1);
    return Array.from({ length: steps + 1 }, (_, i) => {
      const t = i / steps;
      return Math.round(r0 + t * (r1 - r0)) * width + Math.round(c0 + t * (c1 - c0));
    });
  }

  cellAt(event) {
    const { left, top, width, height } = this.picture.getBoundingClientRect();
    const column = clamp(Math.floor(((event.clientX - left) / width) * this.data.width), this.data.width);
    const row = clamp(Math.floor(((event.clientY - top) / height) * this.data.height), this.data.height);
    return row * this.data.width + column;
  }

  codeAt(event) {
    const { left, top, width, height } = this.palette.getBoundingClientRect();
    const { columns } = this;
    const rows = Math.ceil(this.data.order.length / columns);
    const column = clamp(Math.floor(((event.clientX - left) / width) * columns), columns);
    const row = clamp(Math.floor(((event.clientY - top) / height) * rows), rows);
    return this.data.order[row * columns + column] ?? settings.code;
  }

  // Events.

  listen() {
    const { picture, palette } = this;
    // A reload would lose the edits: the browser asks first.
    window.onbeforeunload = (event) => {
      const [before, now] = this.data?.marks ?? [];
      if (picture.isConnected && before !== now) event.preventDefault();
    };
    picture.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      picture.setPointerCapture(event.pointerId);
      this.byKeyboard = false;
      this.cursor = this.cellAt(event);
      this.begin(this.cursor);
      this.show();
    });
    picture.addEventListener("pointermove", (event) => {
      const way = event.getCoalescedEvents?.() ?? [];
      for (const point of way.length ? way : [event]) {
        this.cursor = this.cellAt(point);
        if (this.stroke) this.extend(this.cursor);
      }
      this.byKeyboard = false;
      this.show();
    });
    for (const over of ["pointerup", "pointercancel", "lostpointercapture"])
      picture.addEventListener(over, () => this.end());
    picture.addEventListener("pointerleave", () => {
      if (!this.stroke && !this.byKeyboard) this.cursor = null;
      this.show();
    });
    picture.addEventListener("keydown", (event) => this.pictureKey(event));
    picture.addEventListener("blur", () => {
      if (this.byKeyboard) this.cursor = null;
      this.show();
    });
    palette.addEventListener("click", (event) => this.choose(this.codeAt(event)));
    palette.addEventListener("keydown", (event) => {
      const { columns } = this;
      const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
      if (!step) return;
      event.preventDefault();
      this.nextCode(step);
    });
    for (const button of this.buttons)
      button.addEventListener("click", () => {
        const { tool, action, ask } = button.dataset;
        if (tool) settings.tool = tool;
        else if (action) this.act(action);
        else this.request({ kind: ask });
        this.show();
      });
    this.find(".line").addEventListener("input", (event) => {
      settings.line = event.target.value / 100;
      this.show();
    });
    this.find(".brush").addEventListener("input", (event) => {
      settings.brush = Number(event.target.value);
      this.show();
    });
    for (const option of ["before", "uses", "lines", "numbers"])
      this.find(`.${option}`).addEventListener("change", (event) => {
        settings[option] = event.target.checked;
        this.show();
      });
  }

  pictureKey(event) {
    const { width, height } = this.data;
    const key = event.key.toLowerCase();
    if (event.ctrlKey || event.metaKey) {
      if (key !== "z" && key !== "y") return;
      event.preventDefault();
      return this.act(key === "y" || event.shiftKey ? "redo" : "undo");
    }
    const cell = this.cursor ?? Math.floor(height / 2) * width + Math.floor(width / 2);
    const [row, column] = [Math.floor(cell / width), cell % width];
    const moved = {
      arrowup: [row - 1, column],
      arrowdown: [row + 1, column],
      arrowleft: [row, column - 1],
      arrowright: [row, column + 1],
    }[key];
    if (moved) {
      this.cursor = clamp(moved[0], height) * width + clamp(moved[1], width);
      this.say(this.describe(this.cursor));
    } else if (key === " " || key === "enter") {
      this.cursor = cell;
      this.begin(cell);
      this.end();
      this.say(`${settings.tool}: ${this.describe(cell)}`);
    } else if (key === "p") this.pick(cell);
    else if (key === "[" || key === "]") this.nextCode(key === "]" ? 1 : -1);
    else if (key === "+" || key === "-") this.resize(key === "+" ? 1 : -1);
    else if (TOOL_KEYS[key]) this.say((settings.tool = TOOL_KEYS[key]));
    else if (key === "b") this.say((settings.before = !settings.before) ? "before the edits" : "now");
    else return;
    event.preventDefault();
    this.byKeyboard = true;
    this.show();
  }

  resize(step) {
    settings.brush = clamp(settings.brush - 1 + step, LARGEST_BRUSH) + 1;
    this.say(`brush ${settings.brush}`);
  }

  nextCode(step) {
    const { order } = this.data;
    this.choose(order[clamp(order.indexOf(settings.code) + step, order.length)]);
  }

  // Drawing.

  describe(cell) {
    const { width } = this.data;
    return `row ${Math.floor(cell / width) + 1}, column ${(cell % width) + 1}, code ${this.indices[cell]}`;
  }

  say(text) {
    this.find(".spoken").textContent = text;
  }

  drawTile(context, code, x, y, width, height = width) {
    const side = this.data.palette.tile;
    context.imageSmoothingEnabled = false; // it would let the neighbours in the strip of tiles shine through
    context.drawImage(this.tiles, 0, code * side, side, side, x, y, width, height);
  }

  drawPalette() {
    const { order } = this.data;
    const columns = this.data.palette.columns / (window.innerWidth < NARROW ? 2 : 1);
    this.columns = columns;
    this.palette.width = columns * TILE;
    this.palette.height = Math.ceil(order.length / columns) * TILE;
    const context = this.palette.getContext("2d");
    const place = (i) => [(i % columns) * TILE, Math.floor(i / columns) * TILE];
    order.forEach((code, i) => {
      const [x, y] = place(i);
      this.drawTile(context, code, x + 1, y + 1, TILE - 2);
    });
    outline(context, USED, [...place(order.indexOf(settings.code)), TILE, TILE], 3);
    this.palette.setAttribute("aria-label", `Palette of ${order.length} codes, code ${settings.code} chosen`);
  }

  show() {
    const { data, indices } = this;
    const { width, height } = data;
    const [across, down] = this.step;
    const whole = [0, 0, width * across, height * down];
    const box = (cell) => [(cell % width) * across, Math.floor(cell / width) * down, across, down];
    const changed = indices.filter((code, cell) => code !== data.original[cell]).length;
    Object.assign(this.picture, { width: whole[2], height: whole[3] });
    this.picture.setAttribute(
      "aria-label",
      `Code grid of ${height} rows and ${width} columns over the decoded slice, ${changed} cells changed`,
    );
    this.picture.dataset.pending = this.pending.length;
    Object.assign(this.picture.dataset, { across, down });
    const context = this.picture.getContext("2d");
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = "high";
    context.drawImage(settings.before ? this.before : this.image, ...whole);
    if (!settings.before) {
      if (!data.offset) this.ahead.forEach((cell) => this.drawTile(context, indices[cell], ...box(cell)));
      const line = settings.line * whole[2];
      context.save();
      context.beginPath();
      context.rect(0, 0, line, whole[3]);
      context.clip();
      context.drawImage(this.before, ...whole);
      context.restore();
      if (line) {
        context.fillStyle = SELECTED;
        context.fillRect(line - 1.5, 0, 3, whole[3]);
      }
    }

    this.caption(context, whole); // below the outlines, which mark cells
    if (settings.lines) {
      context.fillStyle = "rgba(255, 255, 255, 0.16)";
      for (let c = 1; c < width; c++) context.fillRect(c * across - 1, 0, 2, whole[3]);
      for (let r = 1; r < height; r++) context.fillRect(0, r * down - 1, whole[2], 2);
    }
    context.fillStyle = "rgba(54, 197, 240, 0.38)";
    this.selection.forEach((cell) => context.fillRect(...box(cell)));
    const differs = (cell, inside) => inside && indices[cell] !== data.original[cell];
    indices.forEach((code, cell) => {
      if (code !== data.original[cell]) {
        const column = cell % width;
        border(context, CHANGED, box(cell), 3, {
          above: !differs(cell - width, cell >= width),
          below: !differs(cell + width, cell + width < indices.length),
          left: !differs(cell - 1, column > 0),
          right: !differs(cell + 1, column + 1 < width),
        });
      }
      if (settings.uses && code === settings.code) outline(context, USED, box(cell), 4, 3);
    });
    if (settings.numbers) {
      context.font = `${Math.min(across, down) * 0.36}px sans-serif`;
      context.textAlign = "center";
      context.textBaseline = "middle";
      context.lineWidth = 5;
      context.strokeStyle = "rgba(0, 0, 0, 0.75)";
      context.fillStyle = "#fff";
      indices.forEach((code, cell) => {
        const [x, y] = box(cell);
        context.strokeText(code, x + across / 2, y + down / 2);
        context.fillText(code, x + across / 2, y + down / 2);
      });
    }
    if (this.cursor !== null) {
      const cells = settings.tool === "pick" ? [this.cursor] : this.brush(this.cursor);
      const colour = settings.tool === "select" ? SELECTED : "#fff";
      cells.forEach((cell) => outline(context, colour, box(cell), 4));
    }

    for (const button of this.buttons) {
      const { tool, action, ask } = button.dataset;
      if (tool) button.setAttribute("aria-pressed", String(settings.tool === tool));
      else if (ask) button.disabled = { propose: !this.selection.size, copy: !this.selection.size }[ask] ?? !data.copied;
      else
        button.disabled =
          !this.pending.length &&
          {
            undo: !data.undo,
            redo: !data.redo,
            reset: !changed && !data.edited,
            clear: !this.selection.size && !data.selected,
          }[action];
    }
    this.find(".brush").value = settings.brush;
    this.find(".brush-size").textContent = `${settings.brush} × ${settings.brush}`;
    for (const option of ["before", "uses", "lines", "numbers"]) this.find(`.${option}`).checked = settings[option];
    this.find(".line").value = Math.round(settings.line * 100);
    this.find(".under .cell").textContent = this.cursor === null ? "" : this.describe(this.cursor);
    const tile = this.find(".tile").getContext("2d");
    this.drawTile(tile, settings.code, 0, 0, 64);
    this.find(".tile").setAttribute("aria-label", `Code ${settings.code} on its own`);
    const uses = indices.filter((code) => code === settings.code).length;
    this.find(".code").textContent =
      `Code ${settings.code}: in ${uses} ${uses === 1 ? "cell" : "cells"} of this slice, ` +
      `which uses ${new Set(indices).size} of ${data.order.length} codes.`;
    this.find(".start").hidden = changed > 0;
    this.explain();
    this.offer();
  }

  // What the slice is, and that it is no scan.
  caption(context, [, , width, height]) {
    context.font = `bold ${width / 40}px sans-serif`;
    context.textBaseline = "alphabetic";
    context.fillStyle = "#ccc";
    context.strokeStyle = "#000";
    context.lineWidth = width / 150;
    const mark = this.data.marks[settings.before ? 0 : 1];
    for (const [text, align, x, y] of [
      [this.data.title, "left", width / 60, width / 28],
      [mark, "right", width * (1 - 1 / 60), height - width / 60],
    ]) {
      context.textAlign = align;
      context.strokeText(text, x, y);
      context.fillText(text, x, y);
    }
  }

  // What the chosen code means, if Python has said so.
  explain() {
    const { meaning } = this.data;
    const known = meaning?.code === settings.code;
    this.find(".places").hidden = !known;
    this.find(".meaning").textContent = known ? meaning.text : "";
    if (!known) return;
    const context = this.find(".places").getContext("2d");
    context.imageSmoothingEnabled = false;
    context.fillStyle = "#000";
    context.fillRect(0, 0, 64, 64);
    context.drawImage(greyCanvas(meaning.places), 0, 0, 64, 64);
    this.find(".places").setAttribute("aria-label", `Where code ${meaning.code} occurs: the brighter, the more often`);
  }

  // Things to choose from: the likeliest codes of a cell, or fills of the selected cells.
  offer() {
    const { likely, offers, offset } = this.data;
    this.find(".offers").hidden = !likely && !offers;
    const choice = (element, label, name, choose) => {
      const button = Object.assign(document.createElement("button"), { type: "button" });
      button.append(element, label);
      button.setAttribute("aria-label", name);
      button.addEventListener("click", choose);
      return button;
    };
    const dismiss = choice("", "Dismiss", "Dismiss", () => this.request({ kind: "dismiss" }));
    if (likely) {
      this.find(".offered").textContent = `The likeliest codes for ${this.describe(likely.place - offset)}:`;
      const codes = likely.codes.map(([code, share]) => {
        const canvas = Object.assign(document.createElement("canvas"), { width: 56, height: 56 });
        this.drawTile(canvas.getContext("2d"), code, 0, 0, 56);
        const percent = share < 0.01 ? "< 1 %" : `${Math.round(100 * share)} %`;
        return choice(canvas, percent, `Take code ${code}, ${percent}`, () =>
          this.push({ kind: "paint", code, stroke: this.seq + 1, cells: [likely.place] }),
        );
      });
      this.find(".choices").replaceChildren(...codes, dismiss);
    } else if (offers) {
      this.find(".offered").textContent = "The selected cells, drawn again by the prior. Choose one:";
      const fills = offers.map((source, i) =>
        choice(Object.assign(new Image(), { src: source, alt: "" }), "", `Use proposal ${i + 1}`, () =>
          this.request({ kind: "use", number: i }),
        ),
      );
      this.find(".choices").replaceChildren(...fills, dismiss);
    }
  }
}

function clamp(value, size) {
  return Math.min(Math.max(value, 0), size - 1);
}

function outline(context, colour, [x, y, width, height], line, inset = 0) {
  context.strokeStyle = colour;
  context.lineWidth = line;
  const at = line / 2 + inset;
  context.strokeRect(x + at, y + at, width - 2 * at, height - 2 * at);
}

// The sides of a box that border on other cells: a region of many is outlined as one.
function border(context, colour, [x, y, width, height], line, { above, below, left, right }) {
  context.fillStyle = colour;
  if (above) context.fillRect(x, y, width, line);
  if (below) context.fillRect(x, y + height - line, width, line);
  if (left) context.fillRect(x, y, line, height);
  if (right) context.fillRect(x + width - line, y, line, height);
}

// Raw grey bytes in base64, row by row, {bytes, width, height} -> a canvas of that size.
function greyCanvas({ bytes, width, height }) {
  const grey = Uint8Array.from(atob(bytes), (c) => c.charCodeAt(0));
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const image = new ImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  grey.forEach((value, i) => (pixels[i] = 0xff000000 | (value * 0x010101)));
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}
