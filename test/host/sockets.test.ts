// Who the sidecar is.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ConfigError } from '../../host/config.ts';
import { sidecarUser } from '../../host/sockets.ts';

const test = suite('host/sockets');
const folder = mkdtempSync(join(tmpdir(), 'culvert-sockets-'));
const passwd = join(folder, 'passwd');
writeFileSync(passwd, 'root:x:0:0:root:/:/bin/sh\n'
  + 'culvert-sync:x:990:991:The sidecar:/:/usr/sbin/nologin\n');

test.after(() => rmSync(folder, { recursive: true }));

test('a user of the machine stands for uid and group', () => {
  assert.equal(sidecarUser({ syncUser: 'culvert-sync', syncUid: -1, syncGroup: -1 }, passwd),
    { uid: 990, gid: 991 });
});

test('without one, the numbers count', () => {
  assert.equal(sidecarUser({ syncUser: '', syncUid: 7, syncGroup: 8 }, passwd),
    { uid: 7, gid: 8 });
});

test('a user that is not there is named', () => {
  assert.throws(() => sidecarUser({ syncUser: 'nobody-here', syncUid: -1, syncGroup: -1 }, passwd),
    (error: Error) => error instanceof ConfigError && error.message.includes('nobody-here'));
});

test.run();
