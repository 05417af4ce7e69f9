// The slice viewer: a slice and what a model makes of it side by side or under one slider, with a map laid over one of
// them; one zoom, one window and level, one cursor for both. Scrolling is Python's business: this file asks for a slice and
// shows what comes, never more than one question at a time, always the latest.

const ASK_AGAIN_MS = 3000;
const WHEEL_STEP = 50; // pixels of wheel a slice
const FADE_MS = 350;
const DIMMED = 0.45; // of the grey under an overlay at full strength
const DARKER = [77, 163, 255];
const BRIGHTER = [255, 146, 46];
const LESS_ALIKE = [255, 196, 77];
const LEAST_ALIKE = 0.4; // SSIM at which the overlay is opaque
const PRESETS = { whole: [1, 0.5], brain: [0.7, 0.55], cortex: [0.6, 0.65], fluid: [0.4, 0.25] }; // window, level
const NONE = { key: "none", label: "Plain", title: "Nothing over the pictures" };

const fresh = () => ({ zoom: 1, x: 0.5, y: 0.5, window: 1, level: 0.5 });
// Kept across pages. `fade` runs from 0 to 1 after an overlay was chosen.
const settings = { view: "side", overlay: {}, strength: 0.75, fade: 1, line: 0.5, ...fresh() };
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
    this.listen();
  }

  // What Python says: data = {source, index, count, size, original, reconstruction, similarity, limit, edges, name, page,
  // names, mark, over, first, overlays, margin}. An overlay has a key, a label, a title, the words low and high beside its colours,
  // and a picture as source, but for "difference" and "similarity", which are made here.

  receive(data) {
    if (data.source !== this.source) {
      if (this.source !== undefined) Object.assign(settings, fresh()); // another scan, another brightness
      this.source = data.source;
      this.wanted = this.sent = null;
      this.asked = false; // what is under way was asked of the one before
      clearTimeout(this.timer);
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
    const { original, reconstruction, similarity } = this.values;
    const tint = (colour, share) => [...colour, 255 * Math.min(Math.max(share, 0), 1)];
    const differs = (i) => (reconstruction[i] - original[i]) / 255 / data.limit;
    const unlike = (i) => (1 - similarity[i] / 255) / (1 - LEAST_ALIKE);
    const made = {
      difference: (i) => tint(differs(i) > 0 ? BRIGHTER : DARKER, Math.abs(differs(i))),
      similarity: (i) => tint(LESS_ALIKE, unlike(i)),
    };
    this.choices = [NONE, ...data.overlays];
    this.overlays = Object.fromEntries(
      data.overlays.map(({ key, source }) => {
        if (!source) return [key, coloured(data.size, data.size, made[key])];
        const image = new Image();
        image.onload = () => this.show();
        image.src = source;
        return [key, image];
      }),
    );
    if (!this.choices.some(({ key }) => key === this.overlay)) this.overlay = data.first;
    this.buildOverlays();
    this.pictures = {};
    this.grey();
    this.show();
  }

  // The overlay chosen on this page.
  get overlay() {
    return settings.overlay[this.data.page];
  }

  set overlay(key) {
    settings.overlay[this.data.page] = key;
  }

  buildOverlays() {
    const wanted = JSON.stringify(this.choices.map(({ key, label }) => [key, label]));
    if (wanted === this.built) return;
    this.built = wanted;
    this.find(".overlays").replaceChildren(
      ...this.choices.map(({ key, label, title }) => {
        const button = Object.assign(document.createElement("button"), { type: "button", textContent: label, title });
        button.dataset.overlay = key;
        button.addEventListener("click", () => this.lay(key));
        return button;
      }),
    );
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

  // How many times larger than the whole slice would be: without zoom its empty margin is left out.
  magnified(zoom = settings.zoom) {
    return zoom / (1 - 2 * this.data.margin);
  }

  expose(window, level) {
    settings.window = Math.min(Math.max(window, 0.02), 1);
    settings.level = Math.min(Math.max(level, 0), 1);
    this.grey();
    this.show();
  }

  lay(overlay) {
    if (overlay === this.overlay) return;
    this.overlay = overlay;
    this.say(this.find(`[data-overlay="${overlay}"]`).textContent);
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const began = performance.now();
    const step = (now) => {
      if (this.overlay !== overlay) return;
      settings.fade = still ? 1 : Math.min((now - began) / FADE_MS, 1);
      this.show();
      if (settings.fade < 1) requestAnimationFrame(step);
    };
    settings.fade = 0;
    step(began);
  }

  look(view) {
    settings.view = view;
    this.show();
  }

  reset() {
    Object.assign(settings, fresh());
    this.grey();
    this.show();
  }

  listen() {
    for (const figure of this.figures) this.listenTo(figure.querySelector("canvas"), figure.dataset.panel === "slider");
    for (const button of this.all("button"))
      button.addEventListener("click", () => {
        const { view, preset, zoom, step } = button.dataset;
        if (view) this.look(view);
        else if (preset) this.expose(...PRESETS[preset]);
        else if (zoom) this.zoomTo(settings.zoom * (zoom === "in" ? 1.5 : 1 / 1.5));
        else if (step) this.go(this.wanted + Number(step));
        else this.reset();
      });
    this.find(".strength input").addEventListener("input", (event) => {
      settings.strength = event.target.value / 100;
      this.show();
    });
    this.find(".line").addEventListener("input", (event) => this.draw(event.target.value / 100));
  }

  listenTo(canvas, slides) {
    let drag = null;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.pointerType === "touch" && settings.zoom === 1 && !slides) return; // the page scrolls
      canvas.setPointerCapture(event.pointerId);
      const exposes = event.button === 2 || event.shiftKey;
      const kind = exposes ? "expose" : slides ? "slide" : settings.zoom > 1 ? "pan" : "expose";
      drag = { at: [event.clientX, event.clientY], start: { ...settings }, kind };
      if (kind === "slide") this.draw(at(canvas, event)[0]);
    });
    canvas.addEventListener("pointermove", (event) => {
      const [x, y] = at(canvas, event);
      this.cursor = this.inPicture(x, y);
      if (drag) {
        const side = canvas.getBoundingClientRect().width;
        const [dx, dy] = [(event.clientX - drag.at[0]) / side, (event.clientY - drag.at[1]) / side];
        const { start, kind } = drag;
        if (kind === "expose") return this.expose(start.window + dx, start.level + dy);
        if (kind === "slide") return this.draw(x);
        const larger = this.magnified(start.zoom);
        return this.moveTo(start.x - dx / larger, start.y - dy / larger);
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
    canvas.addEventListener("dblclick", () => this.zoomTo(settings.zoom > 1 ? 1 : 2));
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
    const exposures = { "[": [-0.05, 0], "]": [0.05, 0], ",": [0, -0.05], ".": [0, 0.05] };
    const { key } = event;
    if (event.shiftKey && moves[key]) this.moveTo(settings.x + moves[key][0], settings.y + moves[key][1]);
    else if (key in slices && this.data.count > 1) this.go(this.wanted + slices[key]);
    else if (settings.view === "slider" && (key === "ArrowLeft" || key === "ArrowRight"))
      this.draw(settings.line + (key === "ArrowLeft" ? -0.02 : 0.02));
    else if (key === "+" || key === "=") this.zoomTo(settings.zoom * 1.5);
    else if (key === "-") this.zoomTo(settings.zoom / 1.5);
    else if (exposures[key]) this.expose(settings.window + exposures[key][0], settings.level + exposures[key][1]);
    else if ("1234".includes(key)) this.expose(...Object.values(PRESETS)[key - 1]);
    else if (key === "o") {
      const now = this.choices.findIndex((choice) => choice.key === this.overlay);
      this.lay(this.choices[(now + 1) % this.choices.length].key);
    } else if (key === "v") {
      this.look(settings.view === "side" ? "slider" : "side");
      this.figures.find((figure) => !figure.hidden).querySelector("canvas").focus();
    } else if (key === "0") this.reset();
    else return;
    event.preventDefault();
  }

  draw(line) {
    settings.line = Math.min(Math.max(line, 0), 1);
    this.show();
  }

  // Places. A place on a canvas and a place in the picture both run from 0 to 1.

  seen(x, y) {
    return [settings.x + (x - 0.5) / this.magnified(), settings.y + (y - 0.5) / this.magnified()];
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
      this.pictures[key] = coloured(this.data.size, this.data.size, (i) => [exposed[i], exposed[i], exposed[i], 255]);
    }
  }

  show() {
    const { data } = this;
    for (const figure of this.figures) figure.hidden = (figure.dataset.panel === "slider") !== (settings.view === "slider");
    this.element.classList.toggle("zoomed", settings.zoom > 1);
    // An answer on its way changes the picture even where the user is back at the slice shown.
    this.element.setAttribute("aria-busy", String(this.wanted !== data.index || Boolean(this.asked)));
    this.element.dataset.slice = data.index;
    const pressed = (button) => {
      const { view, overlay, preset } = button.dataset;
      if (view) return view === settings.view;
      if (overlay) return overlay === this.overlay;
      const [window, level] = PRESETS[preset];
      return window === settings.window && level === settings.level;
    };
    for (const button of this.all("[data-view], [data-overlay], [data-preset]"))
      button.setAttribute("aria-pressed", String(pressed(button)));
    this.find('[data-zoom="out"]').disabled = settings.zoom === 1;
    this.find(".zoom").textContent = `${settings.zoom.toFixed(1)} ×`;
    this.find(".strength").hidden = this.overlay === "none";
    this.find(".strength input").value = Math.round(settings.strength * 100);
    this.find(".line").value = Math.round(settings.line * 100);
    this.find(".scroll").hidden = data.count < 2;
    this.find(".slice").textContent = `Slice ${this.wanted + 1} of ${data.count}`;
    this.find('[data-step="1"]').disabled = this.wanted === data.count - 1;
    this.find('[data-step="-1"]').disabled = this.wanted === 0;
    this.find(".hint").textContent =
      (data.count > 1 ? "Wheel, up and down arrows: previous and next slice.\n" : "") +
      "Drag, or [ and ], comma and full stop: window and level. 1 to 4: presets.\nCtrl + wheel, + and −, double click: " +
      "zoom. Drag when zoomed, Shift + arrows: move.\nO: next overlay. V: side by side or slider. Left and right arrows: " +
      "line of the slider. 0: reset.\nBoth pictures always show the same part.";
    this.scale();
    for (const reading of this.all(".reading")) reading.textContent = this.reading();
    for (const figure of this.figures) {
      if (figure.hidden) continue;
      const canvas = figure.querySelector("canvas");
      if (figure.dataset.panel === "slider") this.paintSlider(canvas);
      else this.paint(canvas, figure.dataset.panel, 0, 1);
      canvas.setAttribute("aria-label", this.describe(figure));
    }
  }

  scale() {
    const chosen = this.choices.find(({ key }) => key === this.overlay);
    for (const scale of this.all(".scale")) {
      const { panel } = scale.closest("figure").dataset;
      scale.hidden = !chosen.colours || (panel !== "slider" && panel !== this.data.over);
      if (scale.hidden) continue;
      scale.querySelector(".low").textContent = chosen.low;
      scale.querySelector("i").style.background = `linear-gradient(to right, ${chosen.colours})`;
      scale.querySelector(".high").textContent = chosen.high;
    }
    const [one, other] = this.data.names;
    const names = { original: one, reconstruction: other, slider: `${one} | ${other}` };
    for (const figure of this.figures) figure.querySelector("figcaption").textContent = names[figure.dataset.panel];
  }

  describe(figure) {
    const { edges, name } = this.data;
    const sides = edges ? `left edge ${edges[0]}, right edge ${edges[1]}, top ${edges[2]}, bottom ${edges[3]}` : "sides unknown";
    const over = this.overlay === "none" || ![this.data.over, "slider"].includes(figure.dataset.panel) ? "" : ` with overlay: ${this.overlay}`;
    return `${figure.querySelector("figcaption").textContent}${over}. ${name}, ${sides}`;
  }

  paintSlider(canvas) {
    this.paint(canvas, "original", 0, settings.line);
    this.paint(canvas, "reconstruction", settings.line, 1);
    const context = canvas.getContext("2d");
    const x = settings.line * canvas.width;
    context.fillStyle = "#36c5f0";
    context.fillRect(x - 1.5, 0, 3, canvas.height);
    context.beginPath();
    context.arc(x, canvas.height / 2, 14, 0, 7);
    context.fill();
  }

  // One picture on the part of the canvas between two shares of its width.
  paint(canvas, key, from, to) {
    const { data } = this;
    const context = canvas.getContext("2d");
    const side = canvas.width;
    const scale = (side / data.size) * this.magnified();
    const [left, top] = this.seen(0, 0).map((place) => -place * data.size * scale);
    const place = [left, top, data.size * scale, data.size * scale];
    context.save();
    context.beginPath();
    context.rect(from * side, 0, (to - from) * side, side);
    context.clip();
    context.fillStyle = "#000";
    context.fillRect(0, 0, side, side);
    context.imageSmoothingEnabled = settings.zoom < 4; // further in, pixels are what one wants to see
    context.imageSmoothingQuality = "high";
    context.drawImage(this.pictures[key], ...place);
    const overlay = this.overlays[this.overlay];
    if (key === data.over && overlay && overlay.complete !== false) {
      const strength = settings.strength * settings.fade;
      context.globalAlpha = DIMMED * strength;
      context.fillRect(...place);
      context.globalAlpha = strength;
      context.imageSmoothingEnabled &&= !(overlay instanceof Image);
      context.drawImage(overlay, ...place);
      context.globalAlpha = 1;
    }
    if (this.cursor) {
      context.strokeStyle = "#36c5f0";
      context.lineWidth = 2;
      context.strokeRect(left + this.cursor[0] * scale, top + this.cursor[1] * scale, scale, scale);
    }
    if (key === "reconstruction") write(context, data.mark, side - 12, side - 22, "right");
    if (data.edges) {
      const [l, r, t, b] = data.edges;
      write(context, l, 10, side / 2, "left");
      write(context, r, side - 10, side / 2, "right");
      write(context, t, side / 2, 26, "center");
      write(context, b, side / 2, side - 22, "center");
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
      `Column ${x}, row ${y}. Grey, 0 to 1: left ${before.toFixed(2)}, right ${after.toFixed(2)}, ` +
      `difference ${signed(after - before)}${similarity.length ? `, SSIM ${(similarity[i] / 255).toFixed(2)}` : ""}`
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
  context.font = "bold 22px sans-serif";
  context.textAlign = align;
  context.textBaseline = "middle";
  context.lineWidth = 5;
  context.strokeStyle = "#000";
  context.fillStyle = "#ddd";
  context.strokeText(text, x, y);
  context.fillText(text, x, y);
}

function bytes(base64) {
  return Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
}

// A canvas of that size whose pixel i is [red, green, blue, alpha] = colour(i), 0 to 255.
function coloured(width, height, colour) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) image.data.set(colour(i), 4 * i);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}
