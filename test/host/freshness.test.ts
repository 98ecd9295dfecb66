// Since when a state may be stale, whoever comes and goes.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { Freshness } from '../../host/freshness.ts';

const test = suite('host/freshness');
const at = (ms: number): string => new Date(ms).toISOString();
const healthy = { source: 'x', fresh: true, staleSinceMs: null, problems: [] };
const cut = { ...healthy, fresh: false, staleSinceMs: 400 };

test('nothing is stale before there is anything', () => {
  const freshness = new Freshness(() => 1000);
  freshness.update({ isConnected: false, revision: null, health: null });
  assert.is(freshness.staleSince, null);
  freshness.update({ isConnected: true, revision: null, health: null });
  assert.is(freshness.staleSince, null);
});

test('a state is stale from the end of its sidecar to the next state', () => {
  const freshness = new Freshness(() => 1000);
  freshness.update({ isConnected: true, revision: 1, health: healthy });
  assert.is(freshness.staleSince, null);
  freshness.update({ isConnected: false, revision: null, health: healthy });
  assert.is(freshness.staleSince, at(1000));
  freshness.update({ isConnected: true, revision: null, health: healthy });
  assert.is(freshness.staleSince, at(1000), 'a sidecar that has said nothing yet');
  freshness.update({ isConnected: true, revision: 2, health: healthy });
  assert.is(freshness.staleSince, null);
});

test('and while the source is out of reach, since the source says so', () => {
  const freshness = new Freshness(() => 1000);
  freshness.update({ isConnected: true, revision: 1, health: cut });
  assert.is(freshness.staleSince, at(400));
  freshness.update({ isConnected: false, revision: null, health: cut });
  assert.is(freshness.staleSince, at(400), 'the earlier time stays');
  freshness.update({ isConnected: true, revision: 1, health: healthy });
  assert.is(freshness.staleSince, null);
});

test('what was recalled is as old as its file', () => {
  const freshness = new Freshness(() => 1000);
  freshness.recalled(7);
  assert.is(freshness.staleSince, at(7));
  freshness.update({ isConnected: true, revision: null, health: null });
  assert.is(freshness.staleSince, at(7));
});

test.run();
