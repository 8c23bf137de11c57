'use strict';
// An explorer is a page with a search field, filters, a list of rows, and the details of the open row next to the list.
// items.js and pairs.js define the rows.
//
// A definition contains: view, key (of the address of a row), noun, sourceLabel, sources, controls, searched(row), note(source),
// factsOf(rows) (computed once per loaded set of rows), prepare(explorer) (called before each update),
// compare(explorer) (a sort function or null), header(explorer), summary(row, explorer), details(row, explorer).
// A control contains: name, label, values(explorer) -> [[value, text], ...], and matches(row, value, explorer) if it is a filter.
Browser.Explorer = class {
  constructor(section, definition) {
    const { element } = Browser;
    Object.assign(this, { section, definition, state: {}, rows: [], shown: [], open: null });
    this.search = element('input', {
      type: 'search', placeholder: `Search in ${definition.noun}`, 'aria-label': `search in ${definition.noun}`,
      oninput: () => this.set('q', this.search.value),
    });
    this.selects = Object.fromEntries([this.sourceControl(), ...definition.controls].map(control => {
      const select = element('select', { 'aria-label': control.label, onchange: () => this.set(control.name, select.value) });
      return [control.name, { control, select, label: element('label', {}, element('span', {}, control.label), select) }];
    }));
    this.count = element('span', { class: 'soft count', role: 'status' });
    this.note = element('p', { class: 'soft note', hidden: true });
    this.header = element('div', { class: 'row header', 'aria-hidden': 'true' });
    const rows = element('div', { class: 'rows', role: 'listbox', tabindex: '0', 'aria-label': definition.noun });
    this.detail = element('article', { class: 'detail', tabindex: '-1', hidden: true });
    section.append(
      element('div', { class: 'toolbar' }, this.search,
        element('button', { class: 'filters', onclick: () => section.classList.toggle('has-filters') }, 'Filters'),
        Object.values(this.selects).map(({ label }) => label), this.count),
      this.note,
      element('div', { class: 'panes' }, element('div', { class: 'list' }, this.header, rows), this.detail),
    );
    this.list = new Browser.VirtualList(rows, row => this.rowElement(row));
  }

  sourceControl() {
    const { sources, sourceLabel } = this.definition;
    const all = sources.length > 1 ? [['all', `all (${sources.length})`]] : [];
    return { name: 'source', label: sourceLabel, values: () => [...sources.map(({ name }) => [name, name]), ...all] };
  }

  /** Show the page with the filters and the open row that an address names. */
  async visit(address) {
    const { key, sources } = this.definition;
    const path = address[key] ?? '';
    const named = sources.find(({ name }) => path.startsWith(`${name}/`));
    this.state = { ...address };
    delete this.state[key];
    delete this.state[this.definition.view];
    this.state.source ??= named?.name ?? sources[0].name;
    this.search.value = this.state.q ?? '';
    await this.loadRows();
    const id = named ? path.slice(named.name.length + 1) : '';
    this.open = this.rows.find(row => row.source === named && row.id === id) ?? null;
    this.update();
    if (path && !this.open) this.announce(`There is no ${key} ${path} on this page.`);
    if (this.open && this.shown.includes(this.open)) this.list.reveal(this.shown.indexOf(this.open));
  }

  async loadRows() {
    const chosen = this.definition.sources.filter(({ name }) => this.state.source === 'all' || name === this.state.source);
    const used = chosen.length ? chosen : this.definition.sources.slice(0, 1);
    this.state.source = used.length > 1 ? 'all' : used[0].name;
    this.used = used;
    this.count.textContent = 'loading \u2026';
    const contents = await Promise.all(used.map(async source => {
      const { rows, tokens } = await Browser.load(source.file);
      source.tokens = tokens ?? {};
      if (rows.length && !rows[0].source) {
        rows.forEach(row => Object.assign(row, { source, text: this.definition.searched(row).join('\n').toLowerCase() }));
      }
      return rows;
    }));
    this.rows = contents.flat();
    this.facts = this.definition.factsOf(this.rows);
    this.section.classList.toggle('two-images', this.rows.some(({ images }) => images?.length > 1));
  }

  async set(name, value) {
    this.state[name] = value;
    if (name === 'source') await this.loadRows();
    this.list.element.scrollTop = 0;
    this.update();
    clearTimeout(this.timer);  // a browser limits how often the address may change
    this.timer = setTimeout(() => this.remember(), 150);
  }

  /** Return the rows that match the search and all filters except the filter named `except`. */
  matching(except = '') {
    const words = (this.state.q ?? '').toLowerCase().split(/\s+/).filter(Boolean);
    const filters = this.definition.controls.filter(c => c.matches && c.name !== except && this.state[c.name]);
    return this.rows.filter(row =>
      words.every(word => row.text.includes(word)) && filters.every(c => c.matches(row, this.state[c.name], this)));
  }

  update() {
    this.definition.prepare(this);
    for (const { control, select, label } of Object.values(this.selects)) {
      const values = control.values(this);
      label.hidden = values.length < 2;
      if (!values.some(([value]) => value === this.state[control.name])) delete this.state[control.name];
      select.replaceChildren(...values.map(([value, text]) => Browser.element('option', { value }, text)));
      select.value = this.state[control.name] ?? values[0]?.[0];
    }
    this.shown = this.matching();
    const compare = this.definition.compare(this);
    if (compare) this.shown.sort(compare);
    const sampled = this.used.filter(({ count, total }) => count < total);
    const all = this.used.reduce((sum, { total }) => sum + total, 0);
    this.count.textContent = `${this.shown.length.toLocaleString('en')} of ${this.rows.length.toLocaleString('en')}`
      + (sampled.length ? ` (a random sample of ${all.toLocaleString('en')})` : '');
    const none = this.rows.length && !this.shown.length ? `No ${this.definition.noun} match the search and the filters.` : '';
    this.announce([...this.used.map(this.definition.note), none].filter(Boolean).join(' '));
    this.header.replaceChildren(...this.definition.header(this));
    this.list.show(this.shown);
    this.drawDetail();
  }

  announce(text) {
    this.note.textContent = text;
    this.note.hidden = !text;
  }

  rowElement(row) {
    const isOpen = row === this.open;
    return Browser.element(
      'a', { class: isOpen ? 'row open' : 'row', role: 'option', tabindex: '-1', 'aria-selected': String(isOpen), href: this.addressOf(row) },
      this.definition.summary(row, this));
  }

  addressOf(row) {
    const rest = Object.fromEntries(Object.entries(this.state).filter(([name, value]) => value && name !== 'source'));
    if (this.state.source === 'all') rest.source = 'all';
    return Browser.address({ [this.definition.key]: `${row.source.name}/${row.id}`, ...rest });
  }

  /** Write the filters and the open row into the address, without adding an entry to the history. */
  remember() {
    clearTimeout(this.timer);
    if (this.section.hidden) return;  // another page has been opened since the call was scheduled
    const { view, sources } = this.definition;
    const state = Object.fromEntries(Object.entries(this.state).filter(([, value]) => value));
    if (state.source === sources[0].name) delete state.source;
    history.replaceState(null, '', this.open ? this.addressOf(this.open) : Browser.address({ [view]: '', ...state }));
  }

  /** Open the row that is `step` places after the open row. */
  move(step) {
    if (!this.shown.length) return;
    const at = this.shown.indexOf(this.open);
    const place = at < 0 ? 0 : Math.min(this.shown.length - 1, Math.max(0, at + step));
    this.show(this.shown[place]);
  }

  show(row) {
    this.open = row;
    this.remember();
    this.drawDetail();
    this.list.reveal(Math.max(0, this.shown.indexOf(row)));
  }

  close() {
    this.open = null;
    this.remember();
    this.drawDetail();
    this.list.draw();
    this.list.element.focus({ preventScroll: true });
  }

  drawDetail() {
    const { element } = Browser;
    this.detail.hidden = !this.open;
    this.section.classList.toggle('has-detail', Boolean(this.open));
    if (!this.open) {
      this.detail.replaceChildren();
      return;
    }
    const row = this.open;
    const place = this.shown.indexOf(row);
    const copy = element('button', { title: 'copy a link to this page (c)', onclick: () => this.copyLink() }, 'Copy link');
    copy.dataset.copy = '';
    this.detail.replaceChildren(
      element('div', { class: 'detail-bar' },
        element('button', { 'aria-label': 'previous', title: 'previous (k)', disabled: place <= 0, onclick: () => this.move(-1) }, '\u2190'),
        element('button', { 'aria-label': 'next', title: 'next (j)', disabled: place >= this.shown.length - 1, onclick: () => this.move(1) }, '\u2192'),
        element('span', { class: 'soft' }, place < 0 ? 'not in the list' : `${(place + 1).toLocaleString('en')} of ${this.shown.length.toLocaleString('en')}`),
        element('span', { class: 'grow' }), copy,
        element('button', { 'aria-label': 'close', title: 'close (Esc)', onclick: () => this.close() }, '\u2715')),
      ...this.definition.details(row, this));
    this.detail.scrollTop = 0;
  }

  async copyLink() {
    if (!this.open) return;
    this.remember();
    const button = this.detail.querySelector('[data-copy]');
    try {
      await navigator.clipboard.writeText(location.href);
      button.textContent = 'Copied';
    } catch {  // the browser does not permit it; the address bar has the same link
      button.textContent = 'Link is in the address bar';
    }
  }
};

/** Show the images of a row as buttons that enlarge them. `captions` are the contents of the captions below the images. */
Browser.pictures = (row, captions = []) => {
  const { element } = Browser;
  const images = row.images ?? [];
  return element('div', { class: 'pictures' }, images.map((name, place) => element('figure', {},
    name
      ? element('button', { class: 'picture', 'aria-label': `enlarge image ${place + 1}`, onclick: () => Browser.zoom(images, place) },
        element('img', { src: `images/${name}`, alt: `image ${place + 1} of ${row.id}` }))
      : element('div', { class: 'none', role: 'img', 'aria-label': `image ${place + 1} is missing` }),
    captions[place] ? element('figcaption', {}, captions[place]) : null)));
};

/** Return the small images of a row for the list. */
Browser.thumbnails = row => Browser.element('span', { class: 'thumbs' }, (row.images ?? []).slice(0, 2).map(name =>
  name ? Browser.element('img', { src: `images/${name}`, alt: '', loading: 'lazy' }) : Browser.element('span', { class: 'none' })));

/** Return the parts of a long text, starting a few words before its first change, so that one line shows the change. */
Browser.around = parts => {
  if (parts.length < 2 || parts[0].length < 48) return parts;
  const start = parts[0].lastIndexOf(' ', parts[0].length - 30);
  return [`\u2026${parts[0].slice(Math.max(0, start))}`, ...parts.slice(1)];
};
