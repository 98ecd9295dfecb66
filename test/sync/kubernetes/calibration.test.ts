// The test API server against recordings of real ones: the same requests get the same answers.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { Player, type CalibrateOptions } from '../../support/api-server/calibrate.ts';
import { clusterNetworkPolicyDefinition, customType }
  from '../../support/api-server/resources.ts';
import type { READER_RULES, TestApiServer } from '../../support/api-server/server.ts';

const test = suite('recordings');
const NEW = { version: '1.36' } as const;
const OLD = { version: '1.20' } as const;
const SECOND_MS = 100;
const LONG_SECOND_MS = 500;

/** Recorded seconds are short. Where that fails they are longer, as for a machine that is busy. */
async function calibrate(name: string, options: CalibrateOptions, count: number): Promise<void> {
  let faults: string[] = [];
  for (const secondMs of [SECOND_MS, LONG_SECOND_MS]) {
    const player = new Player(name, { ...options, secondMs });
    await player.run();
    ({ faults } = player);
    if (faults.length === 0) {
      assert.is(player.compared, count, 'answers compared');
      return;
    }
  }
  throw new Error(faults.join('\n'));
}

/** What happens between two pages is seen in a later list only. */
const PAGES: NonNullable<CalibrateOptions['hooks']> = {
  'driver: a pod is deleted': (_server, play) => { play.become(8); },
};

/** 30 changes, a compaction, a restart. Pods that no recorded page shows are made up: they are
 * counted. */
function expired(floor: number, pods: number): NonNullable<CalibrateOptions['hooks']> {
  return {
    '[1]': ({ store }) => {
      const { version } = store;
      const collection = store.collection('pods');
      for (let i = collection.keys.length; i < pods; i += 1) {
        collection.put({ metadata: { namespace: 'rec-bulk', name: `unseen-${i}` } });
      }
      store.counter.version = version;
      collection.forget(floor);
    },
    'driver: 30 changes': (_server, play) => { play.apply(Infinity); },
    'compacted': (server) => { server.compact(); },
    'driver: server restarted': (server) => { server.restart(); },
  };
}

/** SIGKILL, and later SIGTERM. Versions are those that the second start found. */
function stops(version: number, floor: 'newest' | 'now'): NonNullable<CalibrateOptions['hooks']> {
  return {
    'driver: kube-apiserver gets SIGKILL': async (server) => {
      // What was said is heard first, however busy this machine is.
      await new Promise((resolve) => { setTimeout(resolve, SECOND_MS); });
      await server.kill();
    },
    '[5]': (server) => { server.restart(); return server.start({ rolesAfterMs: Infinity }); },
    '[6]': (server) => { server.loadRoles(); },
    '[9]': (_server, play) => { play.become(9); },
    'driver: kube-apiserver gets SIGTERM': (server) => { void server.terminate(); },
    '[16]': (server) => {
      server.store.counter.version = version;
      server.restart(floor);
      return server.start({ rolesAfterMs: Infinity });
    },
    '[17]': (server) => { server.loadRoles(); },
  };
}

function withRights(server: TestApiServer): void {
  grant(server, ENGINE_RULES);
}

/** Gives rights without a version: the recording has its own. */
function grant(server: TestApiServer, rules: typeof READER_RULES): void {
  const { version } = server.store;
  server.grant('engine', rules);
  server.store.counter.version = version;
}

const ENGINE_RULES = [{
  apiGroups: ['', 'networking.k8s.io', 'policy.networking.k8s.io', 'discovery.k8s.io'],
  resources: ['nodes', 'namespaces', 'pods', 'services', 'networkpolicies',
    'clusternetworkpolicies', 'endpointslices'],
  verbs: ['get', 'list', 'watch'],
}];

const RIGHTS: NonNullable<CalibrateOptions['hooks']> = {
  'driver: POST /apis/rbac.authorization.k8s.io/v1/clusterrolebindings': (server) => {
    grant(server, ENGINE_RULES);
  },
  'driver: DELETE /apis/rbac.authorization.k8s.io/v1/clusterrolebindings': (server) => {
    grant(server, []);
  },
};

/** The CRD comes, goes under a watch, and comes back. */
function definitions(before: string, deletedAt: number): NonNullable<CalibrateOptions['hooks']> {
  const define = (server: TestApiServer): void => {
    const { counter } = server.store;
    const { version } = counter;
    counter.version = version - 1;
    server.define(clusterNetworkPolicyDefinition(), Infinity);
    counter.version = version;
  };
  return {
    '[3]': define,
    '[4]': (server) => { server.initialize(); },
    'driver: DELETE /apis/apiextensions.k8s.io': ({ store }, play) => {
      store.counter.version = deletedAt;
      play.skip(Infinity);
      const [crd] = store.collection('customresourcedefinitions').objects().values();
      store.collection('customresourcedefinitions').replace(new Map());
      if (crd !== undefined) store.drop(customType(crd));
    },
    [before]: define,
    '[12]': (server) => { server.initialize(); },
  };
}

const BUILD = { 6: 'the build of the server' };
const RECORDINGS: [string, CalibrateOptions, number][] = [
  ['01-paged-list.v1.36.2', { ...NEW, hooks: PAGES }, 10],
  ['01-paged-list.v1.20.2', { ...OLD, hooks: PAGES }, 10],
  ['02a-watch-namespaces.v1.36.2', NEW, 4], ['02a-watch-namespaces.v1.20.2', OLD, 4],
  ['02b-watch-pods.v1.36.2', NEW, 3], ['02b-watch-pods.v1.20.2', OLD, 3],
  ['02c-watch-networkpolicies.v1.36.2', NEW, 3], ['02c-watch-networkpolicies.v1.20.2', OLD, 3],
  ['02d-watch-nodes.v1.36.2', NEW, 2], ['02d-watch-nodes.v1.20.2', OLD, 2],
  ['02e-watch-services-endpointslices.v1.36.2', NEW, 6],
  ['02e-watch-services-endpointslices.v1.20.2', OLD, 6],
  ['03-watchlist.v1.36.2', NEW, 14], ['03-watchlist.v1.20.2', OLD, 14],
  ['03-watchlist.v1.36.2-etcd3.4', { version: '1.36-etcd3.4' }, 14],
  ['06-timeout.v1.36.2', { ...NEW, objectsFrom: '02f-bookmarks-long.v1.36.2' }, 7],
  ['06-timeout.v1.20.2', { ...OLD, objectsFrom: '02f-bookmarks-long.v1.20.2' }, 7],
  ['04-expired.v1.36.2', { ...NEW, hooks: expired(338, 69) }, 13],
  ['04-expired.v1.20.2', { ...OLD, hooks: expired(332, 69),
    objectsFrom: '02f-bookmarks-long.v1.20.2' }, 13],
  ['05-server-stop.v1.36.2', { ...NEW, hooks: stops(617, 'now'), before: withRights }, 19],
  ['05-server-stop.v1.20.2', { ...OLD, hooks: stops(545, 'newest'), before: withRights }, 19],
  ['07-auth.v1.36.2', { ...NEW, hooks: RIGHTS, except: BUILD,
    objectsFrom: '02f-bookmarks-long.v1.36.2' }, 23],
  ['07-auth.v1.20.2', { ...OLD, hooks: RIGHTS, except: BUILD,
    objectsFrom: '02f-bookmarks-long.v1.20.2' }, 23],
  ['09-clusternetworkpolicy.v1.36.2', { ...NEW, hooks: definitions('[11]', 540),
    except: { 5: 'the verbs of the resource' } }, 11],
  ['09-clusternetworkpolicy.v1.20.2', { ...OLD, hooks: definitions('[8]', 454),
    except: { 4: 'the verbs of the resource' } }, 7],
  ['08-dual-stack.v1.36.2', NEW, 6], ['08-dual-stack.v1.20.2', OLD, 6],
];

// All at once: they mostly wait.
for (const [name, options, count] of RECORDINGS) {
  const done = calibrate(name, options, count);
  done.catch(() => {});
  test(name, () => done);
}

test.run();
