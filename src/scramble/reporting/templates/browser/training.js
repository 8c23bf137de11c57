'use strict';
// The charts show the values of all arms at the pointer, and arms can be hidden.
(() => {
  const { element } = Browser;
  const hidden = new Set();

  for (const chart of document.querySelectorAll('.chart')) {
    const svg = chart.querySelector('svg');
    const cursor = svg.querySelector('.cursor');
    const tip = chart.querySelector('.tip');
    const series = JSON.parse(svg.dataset.series);

    svg.addEventListener('pointermove', event => {
      const box = svg.getBoundingClientRect();
      const x = (event.clientX - box.left) * svg.viewBox.baseVal.width / box.width;
      const near = series.filter(line => !hidden.has(line.label)).map(line =>
        [line, line.at.reduce((a, b) => (Math.abs(b[2] - x) < Math.abs(a[2] - x) ? b : a))]);
      if (!near.length) return;
      const [step, , at] = near[0][1];
      cursor.setAttribute('x1', at);
      cursor.setAttribute('x2', at);
      cursor.setAttribute('visibility', 'visible');
      tip.replaceChildren(element('span', {}, `step ${step}`), ...near.map(([line, point]) =>
        element('span', {}, element('i', { class: `dot c${line.colour}` }), `${line.label} `, element('b', {}, String(point[1])))));
    });
    svg.addEventListener('pointerleave', () => {
      cursor.setAttribute('visibility', 'hidden');
      tip.replaceChildren(element('span', {}, 'steps'));
    });
  }

  for (const button of document.querySelectorAll('.legend button')) {
    button.addEventListener('click', () => {
      const arm = button.dataset.arm;
      if (!hidden.delete(arm)) hidden.add(arm);
      button.setAttribute('aria-pressed', String(!hidden.has(arm)));
      for (const line of document.querySelectorAll('.chart [data-arm]')) {
        line.classList.toggle('off', hidden.has(line.dataset.arm));
      }
    });
  }
})();
