// Three planes through a head that may still be growing, and a crosshair that links them. Python sends each level as a
// picture; the cuts across levels are made here.

const WIDE = 176; // millimetres in the middle of the canvas that hold a brain, from side to side
const DEEP = 208; // and from front to back
const CANVAS = 256; // of training slices
const DOTS = 4; // of a canvas a millimetre
const WHEEL_STEP = 50; // pixels of wheel a step
const UNKNOWN = "#26262b";
const CROSS = "#36c5f0";

// Which of column, row and level run across and down a plane, and which one it is scrolled along; how far they run, in
// millimetres; whether a step up is a step to a higher number.
const PLANES = {
  axial: { across: "x", down: "y", along: "z", wide: WIDE, up: 1, name: "Axial plane" },
  coronal: { across: "x", down: "z", along: "y", wide: WIDE, up: -1, name: "Coronal plane" },
  sagittal: { across: "y", down: "z", along: "x", wide: DEEP, up: 1, name: "Sagittal plane" },
};
const viewers = new WeakMap();

export default function (component) {
  const root = component.parentElement;
  if (!viewers.has(root)) viewers.set(root, new Viewer(root));
  viewers.get(root).receive(component.data);
}

class Viewer {
  constructor(root) {
    this.find = (selector) => root.querySelector(selector);
    this.element = this.find(".planes");
    for (const plane of Object.keys(PLANES)) this.listen(plane, this.canvas(plane));
    this.find(".level").addEventListener("input", (event) => this.go({ z: Number(event.target.value) }));
  }

  canvas(plane) {
    return this.find(`[data-plane="${plane}"] canvas`);
  }

  // What Python says: data = {id, name, size, pixel, start, frames, drawn, total, running, mark}; a frame is null where its
  // level is not drawn.

  receive(data) {
    const { size, frames } = data;
    if (data.id !== this.data?.id) {
      const middle = Math.floor(size / 2);
      this.at = { x: middle, y: middle, z: data.start }; // column, row, level
      this.voxels = new Uint8Array(frames.length * size * size);
      this.sources = frames.map(() => null);
      this.known = frames.map(() => false);
      this.scratch = Object.assign(document.createElement("canvas"), { width: size, height: size });
      this.wheel = 0;
      this.element.style.setProperty("--levels", frames.length);
      for (const [plane, { wide }] of Object.entries(PLANES)) {
        const high = plane === "axial" ? DEEP : frames.length;
        Object.assign(this.canvas(plane), { width: DOTS * wide, height: DOTS * high });
      }
      this.find(".level").max = frames.length - 1;
    }
    this.data = data;
    frames.forEach((source, level) => source && source !== this.sources[level] && this.load(source, level));
    this.show();
  }

  load(source, level) {
    this.sources[level] = source;
    const { id, size } = this.data;
    const image = new Image();
    image.onload = () => {
      if (id !== this.data.id || source !== this.sources[level]) return; // something newer has come
      const context = this.scratch.getContext("2d", { willReadFrequently: true });
      context.drawImage(image, 0, 0, size, size);
      const { data } = context.getImageData(0, 0, size, size);
      const first = level * size * size;
      for (let i = 0; i < size * size; i++) this.voxels[first + i] = data[4 * i];
      this.known[level] = true;
      this.show();
    };
    image.src = source;
  }

  // What the user does.

  go(wanted) {
    const { size, frames } = this.data;
    const within = (value, count) => Math.min(Math.max(Math.floor(value), 0), count - 1);
    const before = this.at.z;
    const { x, y, z } = { ...this.at, ...wanted };
    this.at = { x: within(x, size), y: within(y, size), z: within(z, frames.length) };
    if (this.at.z !== before) this.find(".spoken").textContent = this.level();
    this.show();
  }

  // The number of voxels in the direction of an axis.
  count(axis) {
    return axis === "z" ? this.data.frames.length : this.data.size;
  }

  listen(plane, canvas) {
    const { across, down, along, up } = PLANES[plane];
    const point = (event) => {
      const box = canvas.getBoundingClientRect();
      const [right, below] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
      const [column, first] = this.span(across);
      const [row, top] = this.span(down);
      const [a, b] = [first + right * column, top + below * row];
      this.go({ [across]: a, [down]: down === "z" ? this.count("z") - b : b });
    };
    let held = false;
    canvas.addEventListener("pointerdown", (event) => {
      held = true;
      if (event.pointerType !== "touch") canvas.setPointerCapture(event.pointerId);
      point(event);
    });
    canvas.addEventListener("pointermove", (event) => held && point(event));
    for (const over of ["pointerup", "pointercancel", "lostpointercapture"])
      canvas.addEventListener(over, () => (held = false));
    canvas.addEventListener(
      "wheel",
      (event) => {
        if (event.ctrlKey || event.metaKey) return; // the browser zooms
        event.preventDefault();
        this.wheel -= event.deltaY * (event.deltaMode ? WHEEL_STEP : 1);
        const steps = Math.trunc(this.wheel / WHEEL_STEP);
        this.wheel -= steps * WHEEL_STEP;
        if (steps) this.go({ [along]: this.at[along] + steps * up });
      },
      { passive: false },
    );
    canvas.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const moves = { ArrowLeft: [across, -1], ArrowRight: [across, 1], ArrowUp: [down, -1], ArrowDown: [down, 1] };
      const last = this.count(along);
      const steps = { ArrowUp: up, PageUp: up, ArrowDown: -up, PageDown: -up, Home: -up * last, End: up * last };
      if (event.shiftKey && event.key in moves) {
        const [axis, step] = moves[event.key];
        this.go({ [axis]: this.at[axis] + (axis === "z" ? -step : step) });
      } else if (event.key in steps) this.go({ [along]: this.at[along] + steps[event.key] });
      else return;
      event.preventDefault();
    });
  }

  // Drawing.

  // Of the pictures' columns, rows or levels: how many a plane shows, and the first; not whole numbers.
  span(axis) {
    if (axis === "z") return [this.count("z"), 0];
    const shown = axis === "x" ? WIDE : DEEP;
    return [shown / this.data.pixel, (CANVAS - shown) / 2 / this.data.pixel];
  }

  level() {
    return `Level ${this.at.z}${this.known[this.at.z] ? "" : ", not drawn yet"}`;
  }

  show() {
    const { data, at, element } = this;
    for (const plane of Object.keys(PLANES)) this.paint(plane, this.canvas(plane));
    this.find(".place").textContent = `Level ${at.z}`;
    this.find(".level").value = at.z;
    Object.assign(this.find("progress"), { max: data.total, value: data.drawn });
    this.find(".grown").hidden = data.drawn === data.total;
    this.find(".count").textContent = `${data.drawn} of ${data.total} drawn`;
    element.setAttribute("aria-busy", String(data.running));
    Object.assign(element.dataset, at, { known: this.known.filter(Boolean).length, drawn: data.drawn });
  }

  paint(plane, canvas) {
    const { at, known } = this;
    const { across, down, along, name } = PLANES[plane];
    const { size, mark } = this.data;
    const high = this.count(down);
    // Where voxel (a, b) of the plane begins, and which level it is on.
    const step = { x: 1, y: size, z: size * size };
    const image = new ImageData(size, high);
    for (let row = 0; row < high; row++) {
      const b = down === "z" ? high - 1 - row : row;
      const there = known[down === "z" ? b : at.z];
      for (let a = 0; there && a < size; a++) {
        const grey = this.voxels[at[along] * step[along] + a * step[across] + b * step[down]];
        image.data.set([grey, grey, grey, 255], 4 * (row * size + a));
      }
    }
    const picture = Object.assign(document.createElement("canvas"), { width: size, height: high });
    picture.getContext("2d").putImageData(image, 0, 0);

    const context = canvas.getContext("2d");
    const { width, height } = canvas;
    const [columns, left] = this.span(across);
    const [rows, top] = this.span(down);
    context.fillStyle = UNKNOWN;
    context.fillRect(0, 0, width, height);
    context.imageSmoothingQuality = "high";
    context.drawImage(picture, left, top, columns, rows, 0, 0, width, height);
    context.strokeStyle = CROSS;
    context.globalAlpha = 0.7;
    context.lineWidth = 2;
    const x = ((at[across] + 0.5 - left) / columns) * width;
    const y = (((down === "z" ? high - 1 - at.z : at.y) + 0.5 - top) / rows) * height;
    context.beginPath();
    context.moveTo(x, 0);
    context.lineTo(x, height);
    context.moveTo(0, y);
    context.lineTo(width, y);
    context.stroke();
    context.globalAlpha = 1;
    if (plane === "axial" && !known[at.z]) write(context, this.level(), width / 2, height / 2 - 30, "center");
    write(context, mark, width - 12, height - 16, "right");
    const place = along === "z" ? this.level() : `${along === "x" ? "column" : "row"} ${at[along]} of ${size}`;
    canvas.setAttribute("aria-label", `${name} of a synthetic head, ${this.data.name}. ${place}`);
  }
}

function write(context, text, x, y, align) {
  context.font = "bold 22px sans-serif";
  context.textAlign = align;
  context.textBaseline = "middle";
  context.lineWidth = 5;
  context.strokeStyle = "#000";
  context.fillStyle = "#ccc";
  context.strokeText(text, x, y);
  context.fillText(text, x, y);
}
