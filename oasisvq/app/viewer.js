// The slice viewer: original, reconstruction, difference and SSIM map under one zoom, one window and level, one cursor;
// or original and reconstruction on the two sides of a line. Scrolling is Python's business: this file asks for a slice
// and shows what comes, never more than one question at a time, always the latest.

const ASK_AGAIN_MS = 3000;
const WHEEL_STEP = 50; // pixels of wheel a slice
const DIVERGING = ["#053061", "#4393c3", "#f7f7f7", "#d6604d", "#67001f"]; // red: brighter than the original
const SEQUENTIAL = ["#00204d", "#414d6b", "#7c7b78", "#bcaf6f", "#ffea46"]; // cividis
const GREY = ["#000000", "#ffffff"];
const MARK = "RECONSTRUCTION";

const fresh = () => ({ zoom: 1, x: 0.5, y: 0.5, window: 1, level: 0.5 });
const settings = { layout: "four", line: 0.5, ...fresh() }; // kept across pages
const viewers = new WeakMap();

export default function (component) {
  const root = component.parentElement;
  if (!viewers.has(root)) viewers.set(root, new Viewer(root));
  const viewer = viewers.get(root);
  viewer.publish = (wanted) => component.setStateValue("slice", wanted);
  viewer.receive(component.data);
  return () => clearTimeout(viewer.timer);
}

class Viewer {
  constructor(root) {
    this.find = (selector) => root.querySelector(selector);
    this.all = (selector) => [...root.querySelectorAll(selector)];
    this.element = this.find(".viewer");
    this.figures = this.all("figure");
    this.cursor = null; // [x, y] in pixels of the slice
    this.wheel = 0;
    this.questions = 0;
    this.sent = null;
    this.all(".scale i").forEach((bar, i) => {
      bar.style.background = `linear-gradient(to right, ${[DIVERGING, SEQUENTIAL][i]})`;
    });
    this.listen();
  }

  // What Python says: data = {source, index, count, size, original, reconstruction, similarity, limit, edges, name}.

  receive(data) {
    if (data.source !== this.source) {
      if (this.source !== undefined) Object.assign(settings, fresh()); // another scan, another brightness
      this.source = data.source;
      this.wanted = this.sent = null;
    }
    this.data = data;
    if (data.index === this.sent) {
      this.sent = null;
      clearTimeout(this.timer);
    }
    if (this.sent === null && this.asked) {
      this.asked = false;
      if (this.wanted !== data.index) this.ask();
    } else if (this.sent === null) this.wanted = data.index;

    this.values = Object.fromEntries(["original", "reconstruction", "similarity"].map((key) => [key, bytes(data[key])]));
    const { original, reconstruction } = this.values;
    const scaled = (i) => 127.5 + (127.5 * (reconstruction[i] - original[i])) / 255 / data.limit;
    this.values.difference = Uint8ClampedArray.from(original, (_, i) => scaled(i));
    this.pictures = {
      difference: picture(this.values.difference, data.size, DIVERGING),
      similarity: picture(this.values.similarity, data.size, SEQUENTIAL),
    };
    const [low, high] = this.all('[data-panel="difference"] .scale span');
    low.textContent = `−${data.limit}, darker`;
    high.textContent = `+${data.limit}, brighter`;
    this.grey();
    this.show();
  }

  go(index) {
    if (this.data.count < 2) return;
    this.wanted = Math.min(Math.max(index, 0), this.data.count - 1);
    this.say(`Slice ${this.wanted + 1} of ${this.data.count}`);
    this.ask();
    this.show();
  }

  ask() {
    if (this.sent !== null || this.wanted === this.data.index) return;
    this.sent = this.wanted;
    this.asked = true;
    this.publish({ source: this.source, index: this.wanted, question: ++this.questions });
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.sent = null;
      this.ask();
    }, ASK_AGAIN_MS);
  }

  // What the user does.

  zoomTo(zoom, x = settings.x, y = settings.y) {
    const before = settings.zoom;
    settings.zoom = Math.min(Math.max(zoom, 1), 16);
    // What lies under the pointer stays there.
    this.moveTo(x - ((x - settings.x) * before) / settings.zoom, y - ((y - settings.y) * before) / settings.zoom);
  }

  moveTo(x, y) {
    const half = 0.5 / settings.zoom;
    settings.x = Math.min(Math.max(x, half), 1 - half);
    settings.y = Math.min(Math.max(y, half), 1 - half);
    this.show();
  }

  expose(window, level) {
    settings.window = Math.min(Math.max(window, 0.02), 1);
    settings.level = Math.min(Math.max(level, 0), 1);
    this.grey();
    this.show();
  }

  listen() {
    for (const figure of this.figures) this.listenTo(figure.querySelector("canvas"), figure.dataset.panel === "wipe");
    for (const button of this.all("button"))
      button.addEventListener("click", () => {
        const { layout, zoom, step } = button.dataset;
        if (layout) settings.layout = layout;
        else if (zoom) return this.zoomTo(settings.zoom * (zoom === "in" ? 1.5 : 1 / 1.5));
        else if (step) return this.go(this.wanted + Number(step));
        else {
          Object.assign(settings, fresh());
          this.grey();
        }
        this.show();
      });
    this.find(".window").addEventListener("input", (event) => this.expose(event.target.value / 100, settings.level));
    this.find(".level").addEventListener("input", (event) => this.expose(settings.window, event.target.value / 100));
    this.find(".line").addEventListener("input", (event) => this.draw(event.target.value / 100));
  }

  listenTo(canvas, wipes) {
    let drag = null;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.pointerType === "touch" && settings.zoom === 1 && !wipes) return; // the page scrolls
      canvas.setPointerCapture(event.pointerId);
      const exposes = event.button === 2 || event.shiftKey;
      drag = { at: [event.clientX, event.clientY], start: { ...settings }, kind: exposes ? "expose" : wipes ? "wipe" : "pan" };
      if (drag.kind === "wipe") this.draw(at(canvas, event)[0]);
    });
    canvas.addEventListener("pointermove", (event) => {
      const [x, y] = at(canvas, event);
      this.cursor = this.inPicture(x, y);
      if (drag) {
        const side = canvas.getBoundingClientRect().width;
        const [dx, dy] = [(event.clientX - drag.at[0]) / side, (event.clientY - drag.at[1]) / side];
        const { start, kind } = drag;
        if (kind === "expose") return this.expose(start.window + dx, start.level + dy);
        if (kind === "wipe") return this.draw(x);
        return this.moveTo(start.x - dx / start.zoom, start.y - dy / start.zoom);
      }
      this.show();
    });
    for (const over of ["pointerup", "pointercancel", "lostpointercapture"])
      canvas.addEventListener(over, () => (drag = null));
    canvas.addEventListener("pointerleave", () => {
      this.cursor = null;
      this.show();
    });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("dblclick", () => this.zoomTo(1));
    canvas.addEventListener(
      "wheel",
      (event) => {
        const delta = event.deltaY * (event.deltaMode ? WHEEL_STEP : 1);
        if (event.ctrlKey || event.metaKey) {
          const [x, y] = at(canvas, event);
          this.zoomTo(settings.zoom * 1.2 ** (-delta / WHEEL_STEP), ...this.seen(x, y));
        } else if (this.data.count > 1) {
          this.wheel -= delta;
          const steps = Math.trunc(this.wheel / WHEEL_STEP);
          this.wheel -= steps * WHEEL_STEP;
          if (steps) this.go(this.wanted + steps);
        } else return;
        event.preventDefault();
      },
      { passive: false },
    );
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const nudge = 0.1 / settings.zoom;
    const moves = { ArrowLeft: [-nudge, 0], ArrowRight: [nudge, 0], ArrowUp: [0, -nudge], ArrowDown: [0, nudge] };
    const slices = { ArrowUp: 1, PageUp: 1, ArrowDown: -1, PageDown: -1, Home: -this.data.count, End: this.data.count };
    const { key } = event;
    if (event.shiftKey && moves[key]) this.moveTo(settings.x + moves[key][0], settings.y + moves[key][1]);
    else if (key in slices && this.data.count > 1) this.go(this.wanted + slices[key]);
    else if (settings.layout === "wipe" && (key === "ArrowLeft" || key === "ArrowRight"))
      this.draw(settings.line + (key === "ArrowLeft" ? -0.02 : 0.02));
    else if (key === "+" || key === "=") this.zoomTo(settings.zoom * 1.5);
    else if (key === "-") this.zoomTo(settings.zoom / 1.5);
    else if (key === "[" || key === "]") this.expose(settings.window + (key === "[" ? -0.05 : 0.05), settings.level);
    else return;
    event.preventDefault();
  }

  draw(line) {
    settings.line = Math.min(Math.max(line, 0), 1);
    this.show();
  }

  // Places. A place on a canvas and a place in the picture both run from 0 to 1.

  seen(x, y) {
    return [settings.x + (x - 0.5) / settings.zoom, settings.y + (y - 0.5) / settings.zoom];
  }

  inPicture(x, y) {
    const { size } = this.data;
    return this.seen(x, y).map((place) => Math.min(Math.max(Math.floor(place * size), 0), size - 1));
  }

  // Drawing.

  say(text) {
    this.find(".spoken").textContent = text;
  }

  grey() {
    const low = settings.level - settings.window / 2;
    for (const key of ["original", "reconstruction"]) {
      const exposed = Uint8ClampedArray.from(this.values[key], (value) => (255 * (value / 255 - low)) / settings.window);
      this.pictures[key] = picture(exposed, this.data.size, GREY);
    }
  }

  show() {
    const { data } = this;
    const wipe = settings.layout === "wipe";
    this.find(".panels").hidden = wipe;
    this.find(".wipe").hidden = !wipe;
    this.element.classList.toggle("zoomed", settings.zoom > 1);
    // An answer on its way changes the picture even where the user is back at the slice shown.
    this.element.setAttribute("aria-busy", String(this.wanted !== data.index || Boolean(this.asked)));
    this.element.dataset.slice = data.index;
    for (const button of this.all("[data-layout]"))
      button.setAttribute("aria-pressed", String(button.dataset.layout === settings.layout));
    this.find('[data-zoom="out"]').disabled = settings.zoom === 1;
    this.find(".zoom").textContent = `${settings.zoom.toFixed(1)} ×`;
    for (const key of ["window", "level"]) {
      this.find(`.${key}`).value = Math.round(settings[key] * 100);
      this.find(`.${key}-value`).textContent = settings[key].toFixed(2);
    }
    this.find(".line").value = Math.round(settings.line * 100);
    this.find(".scroll").hidden = data.count < 2;
    this.find(".slice").textContent = `Slice ${this.wanted + 1} of ${data.count}`;
    this.find('[data-step="1"]').disabled = this.wanted === data.count - 1;
    this.find('[data-step="-1"]').disabled = this.wanted === 0;
    this.find(".hint").textContent =
      (data.count > 1 ? "Wheel, arrow up and down: slices. Ctrl + wheel" : "Ctrl + wheel") +
      ", + and −: zoom. Drag, Shift + arrows: move. Right drag, Shift + drag, [ and ]: window and level. All pictures follow.";
    this.find(".reading").textContent = this.reading();
    for (const figure of this.figures) {
      if (figure.closest("[hidden]")) continue;
      const canvas = figure.querySelector("canvas");
      if (figure.dataset.panel === "wipe") this.paintWipe(canvas);
      else this.paint(canvas, figure.dataset.panel, 0, 1);
      canvas.setAttribute("aria-label", this.describe(figure));
    }
  }

  describe(figure) {
    const { edges, name } = this.data;
    const sides = edges ? `left edge ${edges[0]}, right edge ${edges[1]}, top ${edges[2]}, bottom ${edges[3]}` : "sides unknown";
    return `${figure.querySelector("figcaption").textContent}. ${name}, ${sides}`;
  }

  paintWipe(canvas) {
    this.paint(canvas, "original", 0, settings.line);
    this.paint(canvas, "reconstruction", settings.line, 1);
    const context = canvas.getContext("2d");
    const x = settings.line * canvas.width;
    context.fillStyle = "#36c5f0";
    context.fillRect(x - 1.5, 0, 3, canvas.height);
    write(context, "original", x - 12, canvas.height * 0.06, "right");
  }

  // One picture on the part of the canvas between two shares of its width.
  paint(canvas, key, from, to) {
    const { data } = this;
    const context = canvas.getContext("2d");
    const side = canvas.width;
    const scale = (side / data.size) * settings.zoom;
    const [left, top] = this.seen(0, 0).map((place) => -place * data.size * scale);
    context.save();
    context.beginPath();
    context.rect(from * side, 0, (to - from) * side, side);
    context.clip();
    context.fillStyle = "#000";
    context.fillRect(0, 0, side, side);
    context.imageSmoothingEnabled = settings.zoom < 4; // further in, pixels are what one wants to see
    context.imageSmoothingQuality = "high";
    context.drawImage(this.pictures[key], left, top, data.size * scale, data.size * scale);
    if (this.cursor) {
      context.strokeStyle = key === "difference" ? "#000" : "#36c5f0";
      context.lineWidth = 2;
      context.strokeRect(left + this.cursor[0] * scale, top + this.cursor[1] * scale, scale, scale);
    }
    if (key === "reconstruction") write(context, MARK, side - 12, side - 14, "right");
    if (data.edges) {
      const [l, r, t, b] = data.edges;
      write(context, l, 10, side / 2, "left");
      write(context, r, side - 10, side / 2, "right");
      write(context, t, side / 2, 26, "center");
      write(context, b, side / 2, side - 14, "center");
    }
    context.restore();
  }

  reading() {
    if (!this.cursor) return "";
    const [x, y] = this.cursor;
    const i = y * this.data.size + x;
    const { original, reconstruction, similarity } = this.values;
    const [before, after] = [original[i] / 255, reconstruction[i] / 255];
    return (
      `Column ${x}, row ${y}: original ${before.toFixed(2)}, reconstruction ${after.toFixed(2)}, ` +
      `difference ${signed(after - before)}, SSIM ${(similarity[i] / 255).toFixed(2)}`
    );
  }
}

function at(canvas, event) {
  const { left, top, width, height } = canvas.getBoundingClientRect();
  return [(event.clientX - left) / width, (event.clientY - top) / height];
}

function signed(value) {
  return (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);
}

function write(context, text, x, y, align) {
  context.font = "bold 24px sans-serif";
  context.textAlign = align;
  context.textBaseline = "middle";
  context.lineWidth = 5;
  context.strokeStyle = "#000";
  context.fillStyle = "#fff";
  context.strokeText(text, x, y);
  context.fillText(text, x, y);
}

function bytes(base64) {
  return Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
}

// 256 colours between stops given as #rrggbb.
function ramp(stops) {
  const parts = stops.map((stop) => [1, 3, 5].map((i) => parseInt(stop.slice(i, i + 2), 16)));
  return Array.from({ length: 256 }, (_, value) => {
    const place = (value / 255) * (parts.length - 1);
    const low = Math.min(Math.floor(place), parts.length - 2);
    return parts[low].map((part, i) => part + (place - low) * (parts[low + 1][i] - part));
  });
}

// Values 0 to 255, row by row -> a canvas of that size in those colours.
function picture(values, size, stops) {
  const colours = ramp(stops);
  const canvas = Object.assign(document.createElement("canvas"), { width: size, height: size });
  const image = new ImageData(size, size);
  values.forEach((value, i) => image.data.set([...colours[value], 255], 4 * i));
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}
