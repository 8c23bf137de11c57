'use strict';
// The page of items shows the verdicts, margins, scores and replies of all arms for every item of a benchmark.
(() => {
  const { element, number } = Browser;
  const MOST_COLUMNS = 6;

  /** Return the run of an arm, which is the part of its name before the last colon; '' if only one run is shown. */
  const runOf = name => name.slice(0, Math.max(0, name.lastIndexOf(': ')));

  /** Set the arms of the page (`arm` and `against`) and their columns in each source. Called before each update. */
  function prepare(explorer) {
    const names = [...new Set(explorer.used.flatMap(({ arms }) => arms.map(({ name }) => name)))];
    // The default is the last arm, because the baselines come first.
    const arm = names.includes(explorer.state.arm) ? explorer.state.arm : names.at(-1);
    const others = names.filter(name => name !== arm);
    const own = others.filter(name => runOf(name) === runOf(arm));
    const control = own.find(name => /(^|: )sft/.test(name)) ?? own[0] ?? others[0] ?? arm;
    const against = names.includes(explorer.state.against) ? explorer.state.against : control;
    Object.assign(explorer, { names, arm, against });
    for (const source of explorer.used) {
      const column = name => source.arms.findIndex(other => other.name === name);
      Object.assign(source, { now: column(arm), before: column(against) });
    }
  }

  const now = row => row.results[row.source.now] ?? null;
  const before = row => row.results[row.source.before] ?? null;
  const resultOf = (row, name) => row.results[row.source.arms.findIndex(arm => arm.name === name)] ?? null;
  const colourOf = (explorer, name) => explorer.used.flatMap(({ arms }) => arms).find(arm => arm.name === name).colour;

  const OUTCOMES = {
    right: ['right', (after) => after === true],
    wrong: ['wrong', (after) => after === false],
    gained: ['wrong \u2192 right', (after, first) => first === false && after === true],
    lost: ['right \u2192 wrong', (after, first) => first === true && after === false],
    'both-right': ['right in both', (after, first) => first === true && after === true],
    'both-wrong': ['wrong in both', (after, first) => first === false && after === false],
    ungraded: ['not graded', (after) => after === null],
  };

  const isOutcome = (row, name) => OUTCOMES[name][1](now(row)?.right ?? null, before(row)?.right ?? null);

  const margin = row => now(row)?.margin ?? null;
  const change = row => {
    const [after, first] = [margin(row), before(row)?.margin ?? null];
    return after === null || first === null ? null : after - first;
  };
  const SORTS = {
    'margin-up': ['margin, lowest first', margin, 1],
    'margin-down': ['margin, highest first', margin, -1],
    'change-up': ['change of margin, largest fall first', change, 1],
    'change-down': ['change of margin, largest rise first', change, -1],
  };

  function countedOutcomes(explorer) {
    const rows = explorer.matching('outcome');
    const count = name => rows.reduce((sum, row) => sum + isOutcome(row, name), 0);
    return Object.entries(OUTCOMES).map(([name, [text]]) => [name, `${text} (${count(name).toLocaleString('en')})`]);
  }

  const definition = {
    view: 'items', key: 'item', noun: 'items', sourceLabel: 'benchmark', sources: [],
    controls: [
      {
        name: 'kind', label: 'kind',
        values: ({ facts }) => [['', 'all'], ...facts.kinds.map(kind => [kind, kind])],
        matches: (row, kind) => row.kind === kind || (row.tags ?? []).includes(kind),
      },
      { name: 'arm', label: 'arm', values: ({ names, arm }) => choices(names, arm) },
      { name: 'against', label: 'compared with', values: ({ names, against }) => choices(names, against) },
      {
        name: 'outcome', label: 'outcome',
        values: explorer => [['', 'all'], ...countedOutcomes(explorer)],
        matches: isOutcome,
      },
      {
        name: 'sort', label: 'order',
        values: ({ facts }) => [['', 'as in the benchmark'], ...(facts.hasMargins ? Object.entries(SORTS).map(([name, [text]]) => [name, text]) : [])],
      },
    ],
    searched: row => [
      row.id, row.kind ?? '', ...(row.tags ?? []), ...(row.captions ?? []).map(parts => parts.join('')), row.question ?? row.prompt ?? '',
      ...(row.options ?? []), row.answer ?? '', ...row.results.map(r => r?.reply ?? ''),
    ],
    compare: ({ state }) => {
      if (!SORTS[state.sort]) return null;
      const [, value, sign] = SORTS[state.sort];
      return (a, b) => {  // rows without a margin come last
        const [x, y] = [value(a), value(b)];
        return x === null ? (y === null ? 0 : 1) : y === null ? -1 : sign * (x - y);
      };
    },
    prepare,
    factsOf: rows => ({
      kinds: [...new Set(rows.flatMap(row => [row.kind, ...(row.tags ?? [])]))].filter(Boolean).sort(),
      hasMargins: rows.some(row => row.results.some(result => result?.margin !== undefined)),
    }),
    note: ({ note }) => note,
    header: explorer => [
      element('span', { class: 'thumbs' }), element('span', { class: 'texts' }, 'item'),
      ...columns(explorer).map(name => element('span', { class: 'cell sign', title: name },
        element('i', { class: `dot c${colourOf(explorer, name)}` }), element('span', {}, name.slice(runOf(name).length).replace(/^: /, '')))),
    ],
    summary: (row, explorer) => [
      Browser.thumbnails(row),
      element('span', { class: 'texts' },
        element('span', { class: 'clamp' }, (row.captions ? Browser.marked(Browser.around(row.captions[row.targets?.[0] ?? 0])) : row.question) ?? row.id),
        element('span', { class: 'soft clamp one' }, [row.kind, row.captions ? '' : row.answer].filter(Boolean).join(' \u00b7 '))),
      ...columns(explorer).map(name => verdict(resultOf(row, name), name)),
    ],
    details: (row, explorer) => [
      element('p', { class: 'soft id' }, row.id),
      element('p', { class: 'tags' }, [row.source.name, row.kind, ...(row.tags ?? [])].filter((tag, place, all) => tag && all.indexOf(tag) === place)
        .map(tag => element('span', { class: 'tag' }, tag))),
      Browser.pictures(row, row.captions && !row.targets ? row.captions.map(Browser.marked) : []),
      ...texts(row),
      ...comparisons(row),
      ...tokenButton(row),
    ],
  };

  /** Return the arms to choose from, with the default first. */
  const choices = (names, first) => [first, ...names.filter(name => name !== first)].map(name => [name, name]);

  const columns = ({ names, arm, against }) => (names.length <= MOST_COLUMNS ? names : [...new Set([against, arm])]);

  const symbol = right => (right === true ? '\u2713' : right === false ? '\u2717' : '\u2013');
  const word = right => (right === true ? 'right' : right === false ? 'wrong' : 'not graded');
  const tone = right => (right === true ? 'yes' : right === false ? 'no' : 'soft');

  function verdict(outcome, name) {
    if (!outcome) return element('span', { class: 'cell sign soft' }, '');
    const value = outcome.margin === undefined ? '' : number(outcome.margin);
    return element('span', { class: `cell sign ${tone(outcome.right)}`, title: `${name}: ${word(outcome.right)}${value && `, margin ${value}`}` },
      element('b', {}, symbol(outcome.right)), value ? element('span', { class: 'margin' }, value) : null);
  }

  function texts(row) {
    if (row.question !== undefined) {
      return [
        element('p', { class: 'question' }, row.question),
        row.options ? element('ul', { class: 'options' }, row.options.map(option => element('li', {}, option))) : null,
        row.answer ? element('p', {}, element('span', { class: 'soft' }, 'answer: '), row.answer) : null,
      ].filter(Boolean);
    }
    if (!row.captions || !row.targets) return [];
    return [
      row.prompt ? element('p', { class: 'question prompt' }, row.prompt) : null,
      ...row.captions.map((parts, place) =>
        element('p', { class: row.targets.includes(place) ? 'caption chosen' : 'caption rejected' }, Browser.marked(parts))),
    ].filter(Boolean);
  }

  const nameOf = ({ name, colour }) => element('span', {}, element('i', { class: `dot c${colour}` }), name);

  /** Show the results of the arms: the four comparisons of a 2x2 item, the candidates' scores, or the replies. */
  function comparisons(row) {
    const arms = row.source.arms.map((each, place) => ({ ...each, ...row.results[place] })).filter((each, place) => row.results[place]);
    const parts = [];
    const tables = arms.filter(({ scores }) => scores && Array.isArray(scores[0]));
    const lists = arms.filter(({ scores }) => scores && !Array.isArray(scores[0]));
    if (tables.length) parts.push(quadTable(tables));
    if (lists.length) parts.push(candidateTable(row, lists));
    const replies = arms.filter(({ scores, reply, status }) => !scores && (reply || status));
    if (replies.length || (!tables.length && !lists.length)) parts.push(replyTable(replies.length ? replies : arms));
    return parts;
  }

  const cell = (label, attributes, ...children) => element('td', { 'data-label': label, ...attributes }, ...children);
  const verdictCell = each => cell('verdict', { class: tone(each.right) }, `${symbol(each.right)} ${word(each.right)}`);
  const marginCell = each => cell('margin', {}, each.margin === undefined ? '' : number(each.margin));

  function quadTable(arms) {
    const heads = ['image 1', 'image 2', 'caption 1', 'caption 2'];
    const body = arms.map(each => {
      const [[a, b], [c, d]] = each.scores;
      const tests = [[a, b], [d, c], [a, c], [d, b]];
      return element('tr', {}, element('td', {}, nameOf(each)), verdictCell(each),
        tests.map(([own, other], place) => cell(heads[place], { class: own > other ? '' : 'no' }, `${number(own)} ${own > other ? '>' : '\u2264'} ${number(other)}`)),
        marginCell(each));
    });
    return element('div', { class: 'wide' }, element('table', { class: 'stack arms' },
      element('tr', {}, ['arm', 'verdict', ...heads, 'margin'].map(text => element('th', {}, text))), body),
      element('p', { class: 'soft' }, 'In each comparison, the score of the true caption or image comes first. Scores are in nats or in the unit of '
        + 'the protocol. The margin is the smallest of the four differences.'));
  }

  function candidateTable(row, arms) {
    const labels = row.candidates ?? (row.captions ?? []).map(parts => parts.join(''));
    const best = arms.map(({ scores }) => Math.max(...scores));
    const lines = arms[0].scores.map((_, place) => element('tr', {},
      element('td', { class: (row.targets ?? []).includes(place) ? 'yes' : '' }, labels[place] ?? `candidate ${place + 1}`),
      arms.map((each, column) => cell(each.name, { class: each.scores[place] === best[column] ? 'best' : '' }, number(each.scores[place])))));
    return element('div', { class: 'wide' }, element('table', { class: 'stack arms' },
      element('tr', {}, element('th', {}, 'candidate'), arms.map(each => element('th', {}, nameOf(each)))), lines,
      element('tr', { class: 'total' }, element('td', {}, 'verdict'), arms.map(each => cell(each.name, { class: tone(each.right) }, `${symbol(each.right)} ${word(each.right)}`))),
      element('tr', {}, element('td', {}, 'margin'), arms.map(each => cell(each.name, {}, each.margin === undefined ? '' : number(each.margin))))),
      element('p', { class: 'soft' }, 'Scores are in nats or in the unit of the protocol. The highest score of an arm is bold, and the right candidate is green.'));
  }

  function replyTable(arms) {
    return element('table', { class: 'stack arms replies' },
      element('tr', {}, ['arm', 'verdict', 'reply'].map(text => element('th', {}, text))),
      arms.map(each => element('tr', {}, element('td', {}, nameOf(each)), verdictCell(each),
        cell('reply', { class: 'reply' }, each.reply ?? 'no reply', each.status ? element('span', { class: 'soft' }, ` (${each.status})`) : null))));
  }

  /** Return a button that loads and shows the log-probabilities of the tokens, if the run stored log-probabilities. */
  function tokenButton(row) {
    const file = row.source.tokens[row.id];
    if (!file) return [];
    const place = element('div', { class: 'tokens' });
    const button = element('button', {
      onclick: async () => {
        try {
          const parts = (await Browser.load(file))[row.id];
          place.replaceChildren(...queriesOf(parts).map(query => tokenTable(row, parts, query)));
          button.remove();
        } catch (error) {
          place.textContent = error.message;
        }
      },
    }, 'Log-probabilities of tokens');
    return [element('p', {}, button), place];
  }

  const queriesOf = parts => [...new Set(parts.flatMap(arm => Object.keys(arm ?? {})))];

  /** Return the name of a query, which is its id without the id of the item. A number is the index of an image. */
  function queryName(row, query) {
    const rest = query.slice(row.id.length + 1);
    return /^\d+$/.test(rest) ? `image ${Number(rest) + 1}` : rest === 'blind' ? 'without the image' : rest;
  }

  function tokenTable(row, parts, query) {
    const arms = row.source.arms.map((arm, place) => [arm, parts[place]?.[query]]).filter(([, answers]) => answers);
    const name = queryName(row, query);
    return element('section', {}, name ? element('h3', {}, name) : null, arms[0][1].map((_, candidate) =>
      element('div', { class: 'answers' }, arms.map(([arm, answers]) => element('p', {},
        nameOf(arm), ' ', element('span', { class: 'soft' }, number(answers[candidate].reduce((sum, [, logp]) => sum + logp, 0))), ' ',
        answers[candidate].map(([text, logp]) => element('span', { class: `token t${level(logp)}`, title: `${number(logp)} nats` }, text)))))));
  }

  /** Return how unlikely a token is, from 0 to 5. The level determines the colour of the token. */
  const level = logp => [-0.1, -0.5, -1, -2, -4].filter(limit => logp < limit).length;

  Browser.itemsDefinition = definition;
})();
