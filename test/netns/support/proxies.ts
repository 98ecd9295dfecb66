// Configurations of the proxies that clusters put in front of Services and beside programs: an
// nginx as ingress, a haproxy as sidecar.

import { join } from 'node:path';
import { ROOT } from '../../support/source.ts';
import { replaceFile } from './forge-cluster.ts';
import { socketText } from './kube-scene.ts';

export const TLS_FOLDER = join(ROOT, 'test', 'golden', 'tls');
/** Where the proxies listen in their pods. */
export const PLAIN_PORT = 8080;
export const TLS_PORT = 8443;
/** TLS after a header of the PROXY protocol, which tells who asks. */
export const TOLD_PORT = 8444;
/** Where the program behind the sidecar listens, and the way out that it is told, both within the
 * pod. */
export const PROGRAM_PORT = 9000;
export const WAY_OUT_PORT = 15001;

/** A Service as a proxy addresses it. */
export interface Upstream {
  address: string;
  port: number;
}

const upstreamText = ({ address, port }: Upstream): string => socketText(address, port);

/** A host with its certificate, and where the beginnings of its paths lead. */
export interface VirtualHost {
  name: string;
  paths: [string, Upstream][];
}

/** Writes what nginx is to do into `folder` and gives its command. One process, no files but these,
 * so that it goes with whoever started it; the line that tells that it listens is an odd one. */
export function nginxCommand(
  nginx: string, folder: string, hosts: VirtualHost[],
): { command: string[]; readyText: string } {
  const doors = [`${PLAIN_PORT}`, `${TLS_PORT} ssl`, `${TOLD_PORT} ssl proxy_protocol`];
  const listens = (more = ''): string => doors.flatMap((door) =>
    ['', '[::]:'].map((any) => `    listen ${any}${door}${more};`)).join('\n');
  const tls = (name: string): string => [
    `    ssl_certificate ${join(TLS_FOLDER, `${name}.pem`)};`,
    `    ssl_certificate_key ${join(TLS_FOLDER, `${name}-key.pem`)};`,
  ].join('\n');
  const servers = hosts.map(({ name, paths }) => [
    '  server {', listens(), `    server_name ${name};`, tls(name),
    ...paths.map(([path, to]) =>
      `    location ${path} { proxy_pass http://${upstreamText(to)}; }`), '  }',
  ].join('\n'));
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((kind) =>
    `  ${kind}_temp_path ${join(folder, kind)};`);
  const file = join(folder, 'nginx.conf');
  replaceFile(file, [
    'daemon off;', 'master_process off;', 'user root;', 'error_log stderr notice;',
    `pid ${join(folder, 'nginx.pid')};`, 'events { worker_connections 512; }', 'http {',
    '  access_log off;', ...temporary, '  proxy_connect_timeout 5s;',
    '  set_real_ip_from 0.0.0.0/0;', '  set_real_ip_from ::/0;',
    '  real_ip_header proxy_protocol;', '  proxy_set_header Host $host;',
    '  proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;',
    '  server {', listens(' default_server'), tls(hosts[0]?.name ?? ''), '    return 404;', '  }',
    ...servers, '}', '',
  ].join('\n'));
  return { command: [nginx, '-p', folder, '-e', 'stderr', '-c', file], readyText: 'getrlimit' };
}

/** Writes what haproxy is to do into `folder` and gives its command: all that comes to the pod goes
 * to its program, and the program's way out leads to upstreams by path, the last one for all. */
export function haproxyCommand(
  haproxy: string, folder: string, paths: [string, Upstream][],
): { command: string[]; readyText: string } {
  const file = join(folder, 'haproxy.cfg');
  const name = (at: number): string => `upstream-${at}`;
  replaceFile(file, [
    'global', '  maxconn 500', 'defaults', '  mode http', '  timeout connect 3s',
    '  timeout client 10s', '  timeout server 10s', '  retries 0',
    'frontend inbound', `  bind :${PLAIN_PORT}`,
    `  bind :::${PLAIN_PORT} v6only`, '  option forwardfor',
    '  default_backend program',
    'backend program', `  server program 127.0.0.1:${PROGRAM_PORT}`,
    'frontend outbound', `  bind 127.0.0.1:${WAY_OUT_PORT}`,
    ...paths.map(([path], at) => `  use_backend ${name(at)} if { path_beg ${path} }`),
    ...paths.flatMap(([, to], at) => [
      `backend ${name(at)}`, `  server service ${upstreamText(to)}`,
    ]), '',
  ].join('\n'));
  return { command: [haproxy, '-W', '-db', '-f', file], readyText: 'Loading success' };
}
