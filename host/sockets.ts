// The daemon's two sockets: who may use which, and what for.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { peerCredentials } from '../ffi/socket.ts';
import { ConfigError, type HostConfig } from './config.ts';
import { ControlServer } from './control.ts';
import { RUNTIME_DIRECTORY_MODE } from './derived.ts';
import type { Host } from './main.ts';
import { controlMethods } from './methods.ts';

/** Names of the files in the runtime directory. */
export const CONTROL_SOCKET = 'control.sock';
export const SYNC_SOCKET = 'sync.sock';
const PASSWD = '/etc/passwd';

/** For the command line and the CNI plugin. */
export function controlServer(host: Host): ControlServer {
  const { config, log, version } = host.options;
  return new ControlServer({
    path: join(config.runtimeDirectory, CONTROL_SOCKET),
    mode: 0o600,
    directoryMode: RUNTIME_DIRECTORY_MODE,
    roles: ['cli', 'cni'],
    methods: controlMethods(host),
    version,
    log,
    peerUid: peerCredentials,
    onClosed: (connection) => host.attachments.closed(connection),
  });
}

/** For the sidecar. */
export function syncServer(host: Host): ControlServer {
  const { config, log, version } = host.options;
  const { intake } = host;
  const { uid, gid } = sidecarUser(config);
  return new ControlServer({
    path: join(config.runtimeDirectory, SYNC_SOCKET),
    mode: 0o660,
    ...(gid < 0 ? {} : { gid }),
    directoryMode: RUNTIME_DIRECTORY_MODE,
    peerUid: peerCredentials,
    uids: [0, process.getuid?.() ?? 0, uid],
    roles: ['sync'],
    methods: intake.methods(),
    version,
    log,
    accept: (party) => intake.refusal(party),
    onOpen: (connection) => intake.opened(connection),
    onClosed: (connection) => intake.closed(connection),
  });
}

/** Who the sidecar is: by name, as passwd(5) has it, or by number. */
export function sidecarUser(
  { syncUser, syncUid, syncGroup }: Pick<HostConfig, 'syncUser' | 'syncUid' | 'syncGroup'>,
  file = PASSWD,
): { uid: number; gid: number } {
  if (syncUser === '') return { uid: syncUid, gid: syncGroup };
  const [, , uid, gid] = readFileSync(file, 'utf8').split('\n')
    .map((line) => line.split(':')).find(([name]) => name === syncUser) ?? [];
  if (uid === undefined || gid === undefined) {
    throw new ConfigError(`syncUser: there is no user ${syncUser} in ${file}`);
  }
  return { uid: Number(uid), gid: Number(gid) };
}
