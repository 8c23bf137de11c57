'use strict';
// Browser is the only global object, and each script adds functions to it. Texts enter the page only through text nodes
// and attributes, so that no text is executed as code.
const Browser = {};

(() => {
  // Files in data/ are scripts that call Browser.receive, because browsers do not let a page
  // that is opened from disk fetch files.
  const files = new Map();

  function file(name) {
    if (!files.has(name)) {
      const entry = { requested: false };
      entry.content = new Promise((resolve, reject) => Object.assign(entry, { resolve, reject }));
      files.set(name, entry);
    }
    return files.get(name);
  }

  Browser.receive = (name, content) => file(name).resolve(content);

  /** Return a promise of the content of data/<name>.js. The file is loaded only once. */
  Browser.load = name => {
    const entry = file(name);
    if (!entry.requested) {
      entry.requested = true;
      const script = document.createElement('script');
      script.src = `data/${name}.js`;
      script.addEventListener('error', () => entry.reject(new Error(`data/${name}.js cannot be read: write the site again`)));
      document.head.append(script);
    }
    return entry.content;
  };

  /** Create an element with attributes and children. A string becomes a text node; null, undefined and '' are skipped. */
  Browser.element = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
      else if (value === true) element.setAttribute(name, '');
      else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
    }
    element.append(...children.flat().filter(child => child !== null && child !== undefined && child !== ''));
    return element;
  };

  /** Return the nodes of a text that is split into alternately unchanged and changed parts; changed parts are marked. */
  Browser.marked = parts => parts.map((part, place) => (place % 2 ? Browser.element('mark', {}, part) : part));

  /** Format a number with about three digits and a typographic minus. */
  Browser.number = value => {
    const size = Math.abs(value);
    return value.toFixed(size >= 100 ? 1 : size >= 0.1 || size === 0 ? 2 : 3).replace('-', '\u2212');
  };

  // The address #items&q=cat&arm=mpo selects a page and its filters; #item=<benchmark>/<id> selects an item.
  Browser.readAddress = () => Object.fromEntries(new URLSearchParams(location.hash.slice(1)));

  Browser.address = values =>
    '#' +
    Object.entries(values)
      .filter(([, value]) => value !== undefined && value !== null)
      .map(([key, value]) => (value === '' ? key : `${key}=${encode(value)}`))
      .join('&');

  function encode(value) {
    return encodeURIComponent(value).replaceAll('%2F', '/').replaceAll('%3A', ':').replaceAll('%20', '+');
  }
})();
