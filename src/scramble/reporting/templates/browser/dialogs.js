'use strict';
// One dialog shows enlarged images, and the other dialog lists the keys.
(() => {
  const dialog = document.getElementById('zoom');
  const picture = dialog.querySelector('img');
  const count = dialog.querySelector('.soft');
  let images = [];
  let place = 0;

  function draw() {
    picture.src = `images/${images[place]}`;
    picture.alt = `image ${place + 1}, enlarged`;
    count.textContent = images.length > 1 ? `image ${place + 1} of ${images.length}` : '';
  }

  Browser.zoom = (names, first = 0) => {
    images = names.filter(Boolean);
    if (!images.length) return;
    place = Math.max(0, images.indexOf(names[first]));
    draw();
    dialog.showModal();
  };

  /** Show the next or previous image, and return whether the dialog is open. */
  Browser.stepZoom = step => {
    if (!dialog.open) return false;
    place = (place + step + images.length) % images.length;
    draw();
    return true;
  };

  const help = document.getElementById('help');
  Browser.toggleHelp = () => (help.open ? help.close() : help.showModal());
  document.getElementById('help-button').addEventListener('click', Browser.toggleHelp);
  for (const each of [dialog, help]) each.addEventListener('click', event => event.target === each && each.close());
  dialog.querySelector('button').addEventListener('click', () => dialog.close());
  help.querySelector('button').addEventListener('click', () => help.close());
})();
