'use strict';
// A list of rows of equal height. Only the visible rows are in the document, so that a list of thousands of rows scrolls
// smoothly.
Browser.VirtualList = class {
  /** `render(row, place)` returns the element of a row. The style variable --row is the height of a row. */
  constructor(element, render) {
    this.element = element;
    this.render = render;
    this.rows = [];
    this.layer = Browser.element('div', { class: 'layer' });
    this.space = Browser.element('div', { class: 'space' }, this.layer);
    element.append(this.space);
    element.addEventListener('scroll', () => this.draw());
    new ResizeObserver(() => this.draw()).observe(element);
  }

  /** Return the height of a row in pixels. The list stores it, because reading a style makes the browser compute the layout. */
  height() {
    this.rowHeight ??= parseFloat(getComputedStyle(this.element).getPropertyValue('--row'))
      * parseFloat(getComputedStyle(document.documentElement).fontSize);
    return this.rowHeight;
  }

  show(rows) {
    this.rows = rows;
    this.draw();
  }

  draw() {
    const height = this.height();
    const { scrollTop, clientHeight } = this.element;
    const first = Math.max(0, Math.floor(scrollTop / height) - 4);
    const last = Math.min(this.rows.length, Math.ceil((scrollTop + clientHeight) / height) + 4);
    this.space.style.height = `${this.rows.length * height}px`;
    this.layer.style.transform = `translateY(${first * height}px)`;
    this.layer.replaceChildren(...this.rows.slice(first, last).map((row, offset) => this.render(row, first + offset)));
  }

  /** Scroll as little as needed to make a row visible. */
  reveal(place) {
    const height = this.height();
    const top = place * height;
    const { scrollTop, clientHeight } = this.element;
    if (top < scrollTop) this.element.scrollTop = top;
    else if (top + height > scrollTop + clientHeight) this.element.scrollTop = top + height - clientHeight;
    this.draw();
  }
};
