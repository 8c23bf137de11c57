'use strict';
// The page of preference pairs.
(() => {
  const { element, number } = Browser;

  const TEXT_ONLY = {
    chosen: ['picks the chosen text', score => score > 0],
    rejected: ['picks the rejected text', score => score < 0],
    tie: ['cannot decide', score => score === 0],
  };
  const SORTS = {
    'text-up': ['text-only score, lowest first', 1],
    'text-down': ['text-only score, highest first', -1],
  };
  const distinct = (rows, key) => [...new Set(rows.map(row => row[key]))].filter(Boolean).sort();
  const choices = values => [['', 'all'], ...values.map(value => [value, value])];

  Browser.pairsDefinition = {
    view: 'pairs', key: 'pair', noun: 'pairs', sourceLabel: 'data', sources: [],
    controls: [
      { name: 'kind', label: 'kind', values: ({ facts }) => choices(facts.kinds), matches: (row, kind) => row.kind === kind },
      { name: 'rule', label: 'rule', values: ({ facts }) => (facts.rules.length > 1 ? choices(facts.rules) : []), matches: (row, rule) => row.rule === rule },
      {
        name: 'text', label: 'text-only classifier',
        values: explorer => {
          if (!explorer.facts.isScored) return [];
          const rows = explorer.matching('text');
          return [['', 'all'], ...Object.entries(TEXT_ONLY).map(([name, [text, test]]) => [name, `${text} (${rows.filter(row => test(row.text_only)).length})`])];
        },
        matches: (row, name) => TEXT_ONLY[name][1](row.text_only),
      },
      {
        name: 'sort', label: 'order',
        values: explorer => (explorer.facts.isScored ? [['', 'as in the data'], ...Object.entries(SORTS).map(([name, [text]]) => [name, text])] : []),
      },
    ],
    searched: row => [row.id, row.kind ?? '', row.rule ?? '', row.prompt ?? '', row.chosen.join(''), row.rejected.join(''), ...(row.others ?? [])],
    compare: ({ state }) => {
      const sort = SORTS[state.sort];
      return sort ? (a, b) => sort[1] * ((a.text_only ?? 0) - (b.text_only ?? 0)) : null;
    },
    note: () => '',
    prepare: () => {},
    factsOf: rows => ({
      kinds: distinct(rows, 'kind'),
      rules: distinct(rows, 'rule'),
      isScored: rows.some(row => row.text_only !== undefined),
    }),
    header: explorer => [
      element('span', { class: 'thumbs' }), element('span', { class: 'texts' }, 'chosen and rejected text'), element('span', { class: 'kind' }, 'kind'),
      ...(explorer.facts.isScored ? [element('span', { class: 'cell' }, 'text-only')] : []),
    ],
    summary: (row, explorer) => [
      Browser.thumbnails(row),
      element('span', { class: 'texts' },
        element('span', { class: 'clamp one chosen' }, Browser.marked(Browser.around(row.chosen))),
        element('span', { class: 'clamp one rejected' }, Browser.marked(Browser.around(row.rejected)))),
      element('span', { class: 'kind soft' }, row.kind ?? ''),
      ...(explorer.facts.isScored ? [element('span', { class: 'cell' }, row.text_only === undefined ? '' : number(row.text_only))] : []),
    ],
    details: row => [
      element('p', { class: 'soft id' }, row.id),
      element('p', { class: 'tags' }, [row.source.name, row.kind, row.rule].filter(Boolean).map(tag => element('span', { class: 'tag' }, tag))),
      Browser.pictures(row),
      row.prompt ? element('p', { class: 'question prompt' }, row.prompt) : null,
      element('p', { class: 'caption chosen' }, element('span', { class: 'soft' }, 'chosen '), Browser.marked(row.chosen)),
      element('p', { class: 'caption rejected' }, element('span', { class: 'soft' }, 'rejected '), Browser.marked(row.rejected)),
      ...(row.others ?? []).map(text => element('p', { class: 'caption rejected' }, element('span', { class: 'soft' }, 'also rejected '), text)),
      scores(row),
      row.text_only === undefined ? null : element('p', { class: 'soft' },
        `The text-only score is the log-odds with which a bigram classifier that does not see the image picks the chosen text. The classifier was fitted on ${row.source.fitted_on}. If the score is positive, the classifier picks the chosen text; 0 is chance.`),
    ].filter(Boolean),
  };

  function scores(row) {
    const all = { ...(row.text_only === undefined ? {} : { 'text-only score': row.text_only }), ...(row.scores ?? {}) };
    if (!Object.keys(all).length) return null;
    return element('table', { class: 'arms scores-of-pair' }, Object.entries(all).map(([name, value]) =>
      element('tr', {}, element('td', {}, name), element('td', {}, number(value)))));
  }
})();
