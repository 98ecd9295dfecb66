// The installed plugin. The runtime starts it anew for every call, so what its start costs is what
// pods wait for. It is two files:
//
//     culvert           a few lines that Node.js reads, with the paths of the packages' native
//                       parts: the packages' own loaders search for them at every start
//     .culvert.image    u32 length, little-endian | the bundle | V8's code cache for it
//
// With the cache nothing is compiled at a start. It is made with all functions in it, also those
// that V8 would compile when they are first called. V8 sees by its own marks whether a cache is of
// its version and its flags; if not, it compiles. It knows a program by its length only, so bundle
// and cache are one file, replaced as one. docs/decisions/cni-bundle.md has what this saves.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { Script } from 'node:vm';

/** What the plugin is made of: the bundle, and the package that has the rest. */
export interface PluginFiles {
  bundle: string;
  packageFolder: string;
  /** Path of the Node.js that runs it. */
  node: string;
}

const LENGTH_SIZE = 4;
/** Packages with native parts. */
const NATIVE_PACKAGES = ['koffi', 'netlink/dist/raw.js'];
const KOFFI_PART = /\/koffi\.node$/;
const NETLINK_PART = /\/netlink\/[^/]+\/[^/]+\/[^/]+\.node$/;

/** The image: bundle and cache. */
export function imageOf(bundle: string): Buffer {
  // One byte for each character is what V8 reads fastest; the bundle has no others.
  const source = Buffer.from('(function (require, module, exports, __filename, __dirname) {'
    + `${readFileSync(bundle, 'latin1')}\n})`, 'latin1');
  const length = Buffer.alloc(LENGTH_SIZE);
  length.writeUInt32LE(source.length);
  return Buffer.concat([length, source, codeCache(source.toString('latin1'))]);
}

/** The program that runs the image of this name beside it. `node-gyp-build` is what netlink has
 * search for its part. */
export function starterText({ packageFolder, node }: PluginFiles, imageName: string): string {
  const { koffi, netlink } = findNativeParts(packageFolder);
  return `#!${node}
'use strict';
const path = __dirname + ${JSON.stringify(`/${imageName}`)};
const image = require('node:fs').readFileSync(path);
const end = ${LENGTH_SIZE} + image.readUInt32LE(0);
const script = new (require('node:vm').Script)(image.latin1Slice(${LENGTH_SIZE}, end), {
  filename: path, cachedData: image.subarray(end),
});
function load(path) {
  const part = { exports: {} };
  process.dlopen(part, path);
  return part.exports;
}
function find(name) {
  if (name === 'koffi') return load(${JSON.stringify(koffi)});
  if (name === 'node-gyp-build') return () => load(${JSON.stringify(netlink)});
  return require(name);
}
script.runInThisContext()(find, module, exports, __filename, __dirname);
`;
}

function codeCache(source: string): Buffer {
  setFlagsFromString('--no-lazy');
  let script;
  try {
    script = new Script(source);
  } finally {
    setFlagsFromString('--lazy');
  }
  return script.createCachedData();
}

/** Where the packages' own loaders find their native parts on this machine. */
function findNativeParts(packageFolder: string): { koffi: string; netlink: string } {
  const load = createRequire(join(packageFolder, 'package.json'));
  for (const name of NATIVE_PACKAGES) load(name);
  const find = (part: RegExp): string => {
    const path = Object.keys(load.cache).find((each) => part.test(each));
    if (path === undefined) throw new Error(`${packageFolder} has no native part ${String(part)}`);
    return path;
  };
  return { koffi: find(KOFFI_PART), netlink: find(NETLINK_PART) };
}
