// Plays how a draw grew: its codes one by one, and the decoded pictures that came with them. Nothing is computed here.

const MARK = "SYNTHETIC";
const UNKNOWN = "#26262b";
const players = new WeakMap();
const settings = { entropy: false }; // kept across pages
const finished = new Set(); // draws that were played: a page that comes again shows them whole

export default function (component) {
  const root = component.parentElement;
  if (!players.has(root)) players.set(root, new Player(root));
  const player = players.get(root);
  player.pick = (wanted) => component.setTriggerValue("picked", wanted);
  player.receive(component.data);
  return () => player.pause();
}

class Player {
  constructor(root) {
    this.find = (selector) => root.querySelector(selector);
    this.element = this.find(".player");
    this.find(".play").addEventListener("click", () => (this.running ? this.pause() : this.play()));
    this.find(".place").addEventListener("input", (event) => {
      this.done = Number(event.target.value);
      this.pause();
    });
  }

  // What Python says: data = {id, name, frames, at, total, seconds, play, low, margin, parts, most, strip}; parts = [{rows,
  // columns, first, name, colours, entropy}], strip = {kinds, kind, items} or null.

  receive(data) {
    const news = data.id !== this.data?.id;
    this.data = data;
    this.element.classList.toggle("low", data.low);
    this.strip();
    for (const part of data.parts) {
      part.count = part.rows * part.columns;
      part.depth = Math.max(1, Math.round(part.columns / part.rows));
      part.across = part.columns / part.depth;
      part.codes = cells(part.colours, part.across, part.rows);
      part.open = cells(part.entropy, part.across, part.rows);
    }
    if (!news) return this.show();
    this.running = false;
    this.part = null; // the one that is being drawn
    this.images = data.frames.map((source) => {
      const image = new Image();
      image.onload = () => this.show();
      image.src = source;
      return image;
    });
    this.find(".place").max = data.total;
    this.choices();
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.done = data.total;
    if (data.play && !still && !finished.has(data.id)) this.play();
    else this.show();
  }

  // Playing. Time runs from 0 to 1; each part takes the same share of it.

  play() {
    const { data } = this;
    if (this.done >= data.total) this.done = 0;
    let time = this.timeOf(this.done);
    let before = null;
    this.running = true;
    const step = (now) => {
      if (!this.running) return;
      time += before === null ? 0 : (now - before) / 1000 / data.seconds;
      before = now;
      this.done = this.doneAt(Math.min(time, 1));
      if (time >= 1) {
        this.running = false;
        finished.add(data.id);
      } else requestAnimationFrame(step);
      this.show();
    };
    requestAnimationFrame(step);
  }

  pause() {
    this.running = false;
    this.show();
  }

  timeOf(done) {
    const { parts } = this.data;
    const i = parts.findLastIndex((part) => done >= part.first);
    return (i + (done - parts[i].first) / parts[i].count) / parts.length;
  }

  doneAt(time) {
    const { parts } = this.data;
    const i = Math.min(Math.floor(time * parts.length), parts.length - 1);
    return Math.floor(parts[i].first + (time * parts.length - i) * parts[i].count);
  }

  // Drawing.

  choices() {
    const names = this.data.parts.map((part, i) => [part.name, () => (this.part = i)]);
    const options = names.length > 1 ? names : [["Codes", () => {}]];
    options.forEach((option) => {
      const choose = option[1];
      option[1] = () => {
        settings.entropy = false;
        choose();
      };
    });
    options.push(["Uncertainty", () => (settings.entropy = true)]);
    this.find(".shown").replaceChildren(
      ...options.map(([name, choose], i) => {
        const button = Object.assign(document.createElement("button"), { type: "button", textContent: name });
        if (name === "Uncertainty") button.title = "Entropy of the prior: black where one code was likely, bright where many were";
        button.addEventListener("click", () => {
          choose();
          this.show();
        });
        button.dataset.option = name === "Uncertainty" ? "entropy" : i;
        return button;
      }),
    );
  }

  show() {
    const { data } = this;
    if (!data || !this.images) return;
    const current = data.parts.findLastIndex((part) => this.done > part.first);
    const shown = this.running || this.part === null ? Math.max(current, 0) : this.part;
    this.paintCodes(data.parts[shown]);
    this.paintPicture(data.parts[Math.max(current, 0)]);
    this.find(".place").value = this.done;
    this.find(".count").textContent = `${this.done.toLocaleString("en")} of ${data.total.toLocaleString("en")} codes`;
    this.find(".play").textContent = this.running ? "Pause" : this.done >= data.total ? "Replay" : "Play";
    this.element.dataset.state = this.running ? "playing" : this.done >= data.total ? "done" : "paused";
    this.element.dataset.id = data.id;
    this.element.dataset.parts = data.parts.map((part) => part.count).join(" ");
    for (const button of this.find(".shown").children) {
      const { option } = button.dataset;
      const pressed = option === "entropy" ? settings.entropy : !settings.entropy && Number(option) === shown;
      button.setAttribute("aria-pressed", String(pressed));
    }
    const whole = this.done >= data.total;
    this.find(".codes figcaption").textContent = settings.entropy ? `Uncertainty of each code, black 0 to yellow ${data.most} bits` : data.codesName;
    this.find(".picture figcaption").textContent = data.pictureName;
    this.find(".codes canvas").setAttribute(
      "aria-label",
      `Grid of codes, ${this.done} of ${data.total} drawn, dark codes violet, bright codes yellow`,
    );
    this.find(".picture canvas").setAttribute(
      "aria-label",
      `Synthetic slice${whole ? "" : ", partly drawn"}: ${data.name}`,
    );
  }

  paintCodes(part) {
    const canvas = this.find(".codes canvas");
    const context = canvas.getContext("2d");
    const [width, height] = [canvas.width / part.across, canvas.height / part.rows];
    context.imageSmoothingEnabled = false;
    context.fillStyle = UNKNOWN;
    context.fillRect(0, 0, canvas.width, canvas.height);
    const known = this.cellsOf(part);
    context.save();
    this.enlarge(context);
    context.save();
    reveal(context, known, part.across, width, height);
    context.fillStyle = "#000";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(settings.entropy ? part.open : part.codes, 0, 0, canvas.width, canvas.height);
    context.restore();
    if (known < part.across * part.rows) pen(context, known, part.across, width, height);
    context.restore();
  }

  // What is drawn from here on leaves out the empty margin of the slice.
  enlarge(context) {
    const { width, height } = context.canvas;
    const { margin } = this.data;
    context.scale(1 / (1 - 2 * margin), 1 / (1 - 2 * margin));
    context.translate(-margin * width, -margin * height);
  }

  // The last picture that is done, and over it the next one as far as its codes are there.
  paintPicture(part) {
    const canvas = this.find(".picture canvas");
    const context = canvas.getContext("2d");
    const { at } = this.data;
    const [width, height] = [canvas.width / part.across, canvas.height / part.rows];
    const last = at.findLastIndex((count) => count <= this.done);
    const draw = (image) => image?.complete && context.drawImage(image, 0, 0, canvas.width, canvas.height);
    context.imageSmoothingQuality = "high";
    context.fillStyle = "#000";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.save();
    this.enlarge(context);
    draw(this.images[last]);
    if (this.done < this.data.total) {
      const known = this.cellsOf(part);
      context.save();
      reveal(context, known, part.across, width, height);
      draw(this.images[last + 1]);
      context.restore();
      pen(context, known, part.across, width, height);
    }
    context.restore();
    context.font = "bold 26px sans-serif";
    context.textAlign = "right";
    context.fillStyle = "#ccc";
    context.strokeStyle = "#000";
    context.lineWidth = 6;
    context.strokeText(MARK, canvas.width - 18, canvas.height - 20);
    context.fillText(MARK, canvas.width - 18, canvas.height - 20);
  }

  cellsOf(part) {
    return Math.floor(Math.min(Math.max(this.done - part.first, 0), part.count) / part.depth);
  }

  // The strip of other draws.

  strip() {
    const { strip, id } = this.data;
    this.find(".strip").hidden = !strip;
    if (!strip) return;
    const button = (text, pressed, choose) => {
      const made = Object.assign(document.createElement("button"), { type: "button", textContent: text });
      made.setAttribute("aria-pressed", String(pressed));
      made.addEventListener("click", choose);
      return made;
    };
    this.find(".kinds").replaceChildren(
      ...strip.kinds.map(([kind, label]) => button(label, kind === strip.kind, () => this.pick({ kind }))),
    );
    this.find(".thumbs").replaceChildren(
      ...strip.items.map(({ id: one, source, label, name }) => {
        const made = button("", one === id, () => this.pick({ id: one }));
        const image = Object.assign(new Image(), { src: source, alt: `Synthetic slice: ${name}` });
        made.append(image, Object.assign(document.createElement("span"), { textContent: label }));
        return made;
      }),
    );
  }
}

// Clip to the first `known` cells in reading order.
function reveal(context, known, across, width, height) {
  const row = Math.floor(known / across);
  context.beginPath();
  context.rect(0, 0, across * width, row * height);
  context.rect(0, row * height, (known % across) * width, height);
  context.clip();
}

// Where the next code comes.
function pen(context, known, across, width, height) {
  context.strokeStyle = "#36c5f0";
  context.lineWidth = 3;
  context.strokeRect((known % across) * width, Math.floor(known / across) * height, width, height);
}

// Red, green, blue and opacity in base64 -> a canvas with a pixel a cell.
function cells(base64, width, height) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const image = new ImageData(width, height);
  image.data.set(Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)));
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}
