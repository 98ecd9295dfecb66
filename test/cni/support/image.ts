// Container images made by hand, from programs of Debian that need nothing beside themselves: one
// layer, as an OCI layout in a tar archive (OCI image specification, image-layout.md).

import { createHash } from 'node:crypto';
import { spawnSync } from 'node:child_process';
import { chmodSync, copyFileSync, mkdirSync, readFileSync, statSync, symlinkSync,
  writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { findTool, toolFolder } from '../../../scripts/tools.ts';

const ARCHITECTURES: Record<string, string> = { x64: 'amd64', arm64: 'arm64', arm: 'arm' };
const PROGRAM_MODE = 0o755;
const APPLETS = ['sh', 'httpd', 'nc', 'printf', 'tail', 'sleep'];
const BUSYBOX = '/bin/busybox';

/** What an image is made of. */
export interface Image {
  name: string;
  /** Programs from a tool's package: their paths there and in the image. */
  programs: { tool: string; program: string; path: string }[];
  /** Symbolic links, by their paths. */
  links: Record<string, string>;
  /** Executable texts, by their paths. */
  scripts: Record<string, string>;
  entrypoint: string[];
}

/** A program that waits: the sandbox's own. */
export const PAUSE: Image = {
  name: 'test.local/pause:1',
  programs: [{ tool: 'catatonit', program: 'usr/bin/catatonit', path: '/catatonit' }],
  links: {}, scripts: {}, entrypoint: ['/catatonit', '-P'],
};

/** Serves HTTP on each port of $PORTS: who it is, by $NAME, and whom it sees. */
export const WEB: Image = {
  name: 'test.local/web:1',
  programs: [{ tool: 'busybox-static', program: 'bin/busybox', path: BUSYBOX }],
  links: Object.fromEntries(APPLETS.map((applet) => [`/bin/${applet}`, BUSYBOX])),
  scripts: {
    '/www/cgi-bin/who': '#!/bin/sh\nprintf "\\n$NAME $REMOTE_ADDR\\n"\n',
    '/serve': '#!/bin/sh\nfor port in $PORTS; do httpd -p $port -h /www; done\n'
      + 'exec sleep 2147483647\n',
  },
  entrypoint: ['/serve'],
};

/** Makes an image in a folder. Returns the archive's path. */
export function makeImage(folder: string, image: Image): string {
  const layout = join(folder, 'layout');
  mkdirSync(join(layout, 'blobs/sha256'), { recursive: true });
  const layerTar = join(folder, 'layer.tar');
  tar(layerTar, fillLayer(join(folder, 'layer'), image));
  const layer = addBlob(layout, readFileSync(layerTar));
  const config = addBlob(layout, JSON.stringify({
    architecture: ARCHITECTURES[process.arch] ?? process.arch, os: 'linux',
    config: { Entrypoint: image.entrypoint, Env: ['PATH=/bin'] },
    rootfs: { type: 'layers', diff_ids: [layer.digest] },
  }));
  const manifest = addBlob(layout, JSON.stringify({
    schemaVersion: 2, mediaType: 'application/vnd.oci.image.manifest.v1+json',
    config: { mediaType: 'application/vnd.oci.image.config.v1+json', ...config },
    layers: [{ mediaType: 'application/vnd.oci.image.layer.v1.tar', ...layer }],
  }));
  writeFileSync(join(layout, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  writeFileSync(join(layout, 'index.json'), JSON.stringify({
    schemaVersion: 2,
    manifests: [{
      mediaType: 'application/vnd.oci.image.manifest.v1+json', ...manifest,
      annotations: { 'io.containerd.image.name': image.name },
    }],
  }));
  const archive = join(folder, 'image.tar');
  tar(archive, layout);
  return archive;
}

function fillLayer(layer: string, { programs, links, scripts }: Image): string {
  const place = (path: string): string => {
    mkdirSync(dirname(join(layer, path)), { recursive: true });
    return join(layer, path);
  };
  for (const { tool, program, path } of programs) {
    const unpacked = toolFolder(tool);
    copyFileSync(unpacked === null ? findTool(tool) ?? '' : join(unpacked, program), place(path));
    chmodSync(join(layer, path), PROGRAM_MODE);
  }
  for (const [path, target] of Object.entries(links)) symlinkSync(target, place(path));
  for (const [path, text] of Object.entries(scripts)) {
    writeFileSync(place(path), text, { mode: PROGRAM_MODE });
  }
  return layer;
}

function addBlob(layout: string, content: string | Buffer): { digest: string; size: number } {
  const hash = createHash('sha256').update(content).digest('hex');
  const path = join(layout, 'blobs/sha256', hash);
  writeFileSync(path, content);
  return { digest: `sha256:${hash}`, size: statSync(path).size };
}

function tar(archive: string, folder: string): void {
  const { status, stderr } = spawnSync('tar', ['-cf', archive, '-C', folder, '.']);
  if (status !== 0) throw new Error(`tar: ${stderr.toString()}`);
}
