'use strict';
(() => {
  const state = { threshold: 0, masks: true, boxes: false, labels: true, hidden: new Set() };
  const cards = [];
  const classes = new Map(); // class id -> {name, color, count}

  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  };

  // Compressed COCO run lengths -> runs, background first, column by column.
  const decodeCounts = (text) => {
    const counts = [];
    for (let p = 0; p < text.length;) {
      let value = 0, shift = 0, more = true;
      while (more && p < text.length) {
        const c = text.charCodeAt(p++) - 48;
        value |= (c & 31) << shift;
        shift += 5;
        more = (c & 32) !== 0;
        if (!more && (c & 16)) value |= -1 << shift;
      }
      if (counts.length > 2) value += counts[counts.length - 2];
      counts.push(value);
    }
    return counts;
  };

  // The mask inside its bounding box: {x, y, width, height, bits}, or null.
  const decodeMask = (text, pictureHeight) => {
    const counts = decodeCounts(text);
    let x0 = Infinity, y0 = Infinity, x1 = -1, y1 = -1, at = 0;
    const runs = [];
    counts.forEach((count, i) => {
      if (i % 2 && count > 0) {
        for (let begin = at; begin < at + count;) {
          const x = Math.floor(begin / pictureHeight), y = begin % pictureHeight;
          const length = Math.min(at + count - begin, pictureHeight - y);
          runs.push([x, y, length]);
          x0 = Math.min(x0, x); x1 = Math.max(x1, x);
          y0 = Math.min(y0, y); y1 = Math.max(y1, y + length - 1);
          begin += length;
        }
      }
      at += count;
    });
    if (x1 < 0) return null;
    const width = x1 - x0 + 1, height = y1 - y0 + 1;
    const bits = new Uint8Array(width * height);
    for (const [x, y, length] of runs) {
      for (let k = 0; k < length; k++) bits[(y - y0 + k) * width + x - x0] = 1;
    }
    return { x: x0, y: y0, width, height, bits };
  };

  const channels = (color) => [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16));

  // Dark or light letters, by the relative luminance of the plate under them.
  const ink = (color) => {
    const [r, g, b] = channels(color).map((v) => Math.pow((v / 255 + 0.055) / 1.055, 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.25 ? '#101014' : '#ffffff';
  };

  // A bitmap of the mask: translucent inside, opaque two pixels wide along its border.
  const paintMask = (mask, color) => {
    const { width, height, bits } = mask;
    const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && bits[y * width + x];
    const [r, g, b] = channels(color);
    const canvas = make('canvas');
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext('2d');
    const image = context.createImageData(width, height);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const i = y * width + x;
        if (!bits[i]) continue;
        const first = inside(x - 1, y) && inside(x + 1, y) && inside(x, y - 1) && inside(x, y + 1);
        const second = first && inside(x - 2, y) && inside(x + 2, y) && inside(x, y - 2) &&
          inside(x, y + 2) && inside(x - 1, y - 1) && inside(x + 1, y - 1) &&
          inside(x - 1, y + 1) && inside(x + 1, y + 1);
        image.data.set([r, g, b, !first ? 255 : !second ? 205 : 104], i * 4);
      }
    }
    context.putImageData(image, 0, 0);
    return canvas;
  };

  class Card {
    constructor(node, record) {
      this.node = node;
      this.record = record;
      this.near = false;
      this.hot = -1;
      this.image = node.querySelector('img');
      this.items = record.items.map((item, index) => ({ ...item, index, on: true, bitmap: undefined }));
      if (this.image) this.addCanvas();
      this.addList();
    }

    addCanvas() {
      const picture = this.node.querySelector('.picture');
      picture.style.setProperty('--aspect', String(this.record.width / this.record.height));
      this.canvas = make('canvas');
      this.canvas.width = this.record.width;
      this.canvas.height = this.record.height;
      this.canvas.setAttribute('aria-hidden', 'true');
      picture.append(this.canvas);
      this.canvas.addEventListener('mousemove', (event) => this.setHot(this.hit(event)));
      this.canvas.addEventListener('mouseleave', () => this.setHot(-1));
      this.canvas.addEventListener('click', () => {
        this.node.classList.toggle('wide');
        this.draw();
      });
    }

    addList() {
      const box = this.node.querySelector('.list');
      box.replaceChildren();
      if (this.items.length === 0) {
        box.append(make('p', 'none', 'nothing found'));
        return;
      }
      const tools = make('div', 'tools');
      for (const [text, on] of [['all on', true], ['all off', false]]) {
        const button = make('button', '', text);
        button.type = 'button';
        button.addEventListener('click', () => this.switchAll(on));
        tools.append(button);
      }
      const list = make('ul', 'items');
      for (const item of this.items) {
        const row = make('li');
        const label = make('label');
        const check = make('input');
        check.type = 'checkbox';
        check.checked = true;
        check.addEventListener('change', () => {
          item.on = check.checked;
          this.draw();
        });
        const swatch = make('span', 'swatch');
        swatch.style.background = item.color;
        label.append(check, swatch, make('b', '', item.name), make('i', '', item.score.toFixed(2)));
        row.append(label);
        for (const [enter, leave] of [['mouseenter', 'mouseleave'], ['focusin', 'focusout']]) {
          row.addEventListener(enter, () => this.setHot(item.index));
          row.addEventListener(leave, () => this.setHot(-1));
        }
        list.append(row);
        item.row = row;
        item.check = check;
      }
      box.append(tools, list);
    }

    switchAll(on) {
      for (const item of this.items) item.on = item.check.checked = on;
      this.draw();
    }

    shown(item) {
      return item.score >= state.threshold && !state.hidden.has(item.class);
    }

    setHot(index) {
      if (index === this.hot) return;
      this.hot = index;
      this.draw();
    }

    mask(item) {
      if (item.decoded === undefined) {
        item.decoded = item.mask === undefined ? null : decodeMask(item.mask, this.record.height);
      }
      return item.decoded;
    }

    hit(event) {
      const frame = this.canvas.getBoundingClientRect();
      const x = Math.floor((event.clientX - frame.left) / frame.width * this.record.width);
      const y = Math.floor((event.clientY - frame.top) / frame.height * this.record.height);
      for (const item of this.items) {
        if (!item.on || !this.shown(item)) continue;
        const mask = this.mask(item);
        if (mask) {
          const mx = x - mask.x, my = y - mask.y;
          if (mx >= 0 && my >= 0 && mx < mask.width && my < mask.height &&
              mask.bits[my * mask.width + mx]) return item.index;
        } else if (x >= item.box[0] && x < item.box[2] && y >= item.box[1] && y < item.box[3]) {
          return item.index;
        }
      }
      return -1;
    }

    release() {
      for (const item of this.items) item.bitmap = item.decoded = undefined;
    }

    draw() {
      for (const item of this.items) {
        item.row.classList.toggle('gone', !this.shown(item));
        item.row.classList.toggle('hot', item.index === this.hot);
      }
      if (!this.canvas || !this.near) return;
      const context = this.canvas.getContext('2d');
      const frame = this.canvas.getBoundingClientRect();
      const unit = frame.width > 0 ? this.record.width / frame.width : 1; // a CSS pixel
      context.clearRect(0, 0, this.record.width, this.record.height);
      const visible = this.items.filter((item) => item.on && this.shown(item));
      const hot = visible.some((item) => item.index === this.hot);
      for (const item of [...visible].reverse()) { // the best score on top
        const lit = item.index === this.hot;
        context.globalAlpha = hot && !lit ? 0.25 : 1;
        const mask = this.mask(item);
        if (mask && state.masks) {
          item.bitmap = item.bitmap || paintMask(mask, item.color);
          context.drawImage(item.bitmap, mask.x, mask.y);
          if (lit) context.drawImage(item.bitmap, mask.x, mask.y);
        }
        if (!mask || state.boxes) {
          context.strokeStyle = item.color;
          context.lineWidth = (lit ? 3 : 2) * unit;
          const [x0, y0, x1, y1] = item.box;
          context.strokeRect(x0, y0, x1 - x0, y1 - y0);
        }
      }
      this.drawLabels(context, visible, unit, hot);
      context.globalAlpha = 1;
    }

    drawLabels(context, visible, unit, hot) {
      const size = 12 * unit, pad = 4 * unit, height = 17 * unit;
      const taken = [];
      context.font = `600 ${size}px system-ui, sans-serif`;
      context.textBaseline = 'middle';
      const lit = (item) => item.index === this.hot;
      for (const item of [...visible].sort((a, b) => lit(b) - lit(a))) {
        if (!lit(item) && (!state.labels || hot)) continue;
        const text = `${item.name} ${item.score.toFixed(2)}`;
        const width = context.measureText(text).width + 2 * pad;
        const mask = this.mask(item);
        const [bx, by, ex, ey] = mask
          ? [mask.x, mask.y, mask.x + mask.width, mask.y + mask.height] : item.box;
        const places = [[bx, by - height], [ex - width, by - height], [bx, by], [bx, ey - height],
          [bx, ey]];
        for (const [px, py] of places) {
          const x = Math.max(0, Math.min(px, this.record.width - width));
          const y = Math.max(0, Math.min(py, this.record.height - height));
          const free = taken.every((t) => x >= t[0] + t[2] || t[0] >= x + width ||
            y >= t[1] + height || t[1] >= y + height);
          if (!free) continue;
          taken.push([x, y, width]);
          context.globalAlpha = 0.92;
          context.fillStyle = item.color;
          context.beginPath();
          context.roundRect(x, y, width, height, 4 * unit);
          context.fill();
          context.globalAlpha = 1;
          context.fillStyle = ink(item.color);
          context.fillText(text, x + pad, y + height / 2 + unit / 2);
          break;
        }
      }
    }
  }

  const drawAll = () => cards.forEach((card) => card.draw());

  const fillBar = () => {
    document.getElementById('bar').hidden = false;
    const slider = document.getElementById('threshold');
    const shown = document.getElementById('threshold-value');
    slider.addEventListener('input', () => {
      state.threshold = Number(slider.value);
      shown.value = state.threshold.toFixed(2);
      drawAll();
    });
    for (const key of ['masks', 'boxes', 'labels']) {
      const check = document.getElementById(`show-${key}`);
      state[key] = check.checked;
      check.addEventListener('change', () => {
        state[key] = check.checked;
        drawAll();
      });
    }
    for (const [id, on] of [['all-on', true], ['all-off', false]]) {
      document.getElementById(id).addEventListener('click', () => {
        state.hidden.clear();
        document.querySelectorAll('#classes button').forEach((b) => b.setAttribute('aria-pressed', 'true'));
        cards.forEach((card) => card.switchAll(on));
      });
    }
    const box = document.getElementById('classes');
    for (const [id, entry] of [...classes].sort((a, b) => b[1].count - a[1].count)) {
      const button = make('button');
      button.type = 'button';
      button.setAttribute('aria-pressed', 'true');
      const swatch = make('span', 'swatch');
      swatch.style.background = entry.color;
      button.append(swatch, make('span', '', entry.name), make('small', '', String(entry.count)));
      button.addEventListener('click', () => {
        const show = state.hidden.has(id);
        if (show) state.hidden.delete(id); else state.hidden.add(id);
        button.setAttribute('aria-pressed', String(show));
        drawAll();
      });
      box.append(button);
    }
  };

  document.querySelectorAll('.card').forEach((node) => {
    const data = node.querySelector('script[type="application/json"]');
    const card = new Card(node, JSON.parse(data.textContent));
    data.remove();
    node.card = card;
    cards.push(card);
    for (const item of card.items) {
      const entry = classes.get(item.class) || { name: item.name, color: item.color, count: 0 };
      entry.count++;
      classes.set(item.class, entry);
    }
  });
  const summary = document.getElementById('summary');
  if (summary) document.getElementById('summary-slot').replaceWith(summary);
  fillBar();

  // Only pictures near the window hold bitmaps.
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const card = entry.target.card;
      card.near = entry.isIntersecting;
      if (card.near) card.draw(); else card.release();
    }
  }, { rootMargin: '600px' });
  const resizer = new ResizeObserver((entries) => {
    for (const entry of entries) entry.target.closest('.card').card.draw();
  });
  for (const card of cards) {
    watcher.observe(card.node);
    if (card.canvas) resizer.observe(card.canvas);
  }
})();
