// Archives: what tar itself makes of them.

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { archive } from '../../cli/archive.ts';
import { LEFT_OUT, withoutSecrets } from '../../host/secrets.ts';

test('tar lists and unpacks it, empty and large files, and letters beyond ASCII', () => {
  const folder = mkdtempSync(join(tmpdir(), 'culvert-archive-'));
  try {
    const files = [
      { name: 'empty.txt', text: '' },
      { name: 'block.txt', text: 'x'.repeat(512) },
      { name: 'large.json', text: 'ä'.repeat(100_001) },
    ];
    writeFileSync(join(folder, 'a.tar.gz'), gzipSync(archive('diag', files, 1_700_000_000_000)));
    const { status, stderr } = spawnSync('tar', ['-xzf', 'a.tar.gz'], { cwd: folder });
    assert.equal([status, stderr.toString()], [0, '']);
    for (const { name, text } of files) {
      assert.is(readFileSync(join(folder, 'diag', name), 'utf8'), text);
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('a name that does not fit is refused', () => {
  assert.throws(() => archive('a', [{ name: 'n'.repeat(99), text: '' }]), /name too long/);
});

test('secrets are known by their settings\' names, however deep', () => {
  const config = {
    nodeName: 'edge', tunnels: [{ privateKey: 'abc', port: 1 }], api: { token: '', Password: 'x' },
    nothing: null,
  };
  assert.equal(withoutSecrets(config), {
    nodeName: 'edge', tunnels: [{ privateKey: LEFT_OUT, port: 1 }],
    api: { token: '', Password: LEFT_OUT }, nothing: null,
  });
});

test.run();
