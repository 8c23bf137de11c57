'use strict';
// Handles pages, addresses and keys.
(async () => {
  const page = view => document.getElementById(`page-${view}`);
  const VIEWS = ['scores', 'items', 'pairs', 'training', 'runs'].filter(page);
  const site = await Browser.load('site');
  const explorers = {};

  for (const [view, definition] of [['items', Browser.itemsDefinition], ['pairs', Browser.pairsDefinition]]) {
    definition.sources = site[view];
    if (definition.sources.length) {
      explorers[view] = new Browser.Explorer(page(view), definition);
    }
  }

  async function visit() {
    const address = Browser.readAddress();
    const named = 'item' in address ? 'items' : 'pair' in address ? 'pairs' : Object.keys(address)[0];
    const view = VIEWS.includes(named) ? named : VIEWS[0];
    for (const each of VIEWS) page(each).hidden = each !== view;
    for (const link of document.querySelectorAll('nav a')) {
      if (link.dataset.view === view) link.setAttribute('aria-current', 'page');
      else link.removeAttribute('aria-current');
    }
    if (document.body.dataset.view !== view) window.scrollTo(0, 0);
    document.body.dataset.view = view;
    await explorers[view]?.visit(address).catch(error => explorers[view].announce(error.message));
  }

  const current = () => explorers[document.body.dataset.view];
  const KEYS = {
    j: () => current()?.move(1),
    ArrowDown: () => current()?.move(1),
    k: () => current()?.move(-1),
    ArrowUp: () => current()?.move(-1),
    Escape: () => current()?.open && current().close(),
    c: () => current()?.copyLink(),
    z: () => current()?.open && Browser.zoom(current().open.images ?? []),
    '/': () => current()?.search.select(),
    '?': () => Browser.toggleHelp(),
    ...Object.fromEntries(VIEWS.map((view, place) => [String(place + 1), () => { location.hash = view; }])),
  };

  document.addEventListener('keydown', event => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { target, key } = event;
    if (target.matches('input, select, textarea')) {
      if (key === 'Escape') target.blur();
      return;
    }
    if (document.querySelector('dialog[open]')) {
      if (key === 'ArrowRight' || key === 'ArrowLeft') Browser.stepZoom(key === 'ArrowRight' ? 1 : -1);
      if (key === '?' && document.getElementById('help').open) Browser.toggleHelp();
      return;
    }
    const isPage = !current();  // pages without a list scroll with the arrow keys
    if (!(key in KEYS) || (isPage && key.startsWith('Arrow'))) return;
    event.preventDefault();
    KEYS[key]();
  });
  window.addEventListener('hashchange', visit);
  await visit();
})();
