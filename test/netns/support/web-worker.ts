// The thread of web.ts.

import { createServer, request as plainRequest, type IncomingMessage } from 'node:http';
import { request as tlsRequest } from 'node:https';
import { serveThread } from './thread.ts';
import type { Sight, WebAnswer, WebQuestion, WebRequest } from './web.ts';

const OK = 200;

function serve({ address, port, name }: Extract<WebRequest, { verb: 'serve' }>): Promise<void> {
  const server = createServer((request, response) => {
    const sight: Sight = {
      by: name, seen: (request.socket.remoteAddress ?? '').replace(/^::ffff:/, ''),
      forwarded: String(request.headers['x-forwarded-for'] ?? ''),
      host: request.headers.host ?? '', path: request.url ?? '',
    };
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify(sight));
  });
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen({ port, host: address, ipv6Only: false }, resolve);
  });
}

/** One request by a connection of its own. */
function get(question: WebQuestion): Promise<WebAnswer> {
  const { address, port, path, host, authority, timeoutMs } = question;
  const common = {
    host: address, port, path, agent: false as const, headers: { host, connection: 'close' },
  };
  return new Promise((resolve, reject) => {
    const take = (response: IncomingMessage): void => {
      let body = '';
      response.on('data', (chunk: Buffer) => { body += chunk.toString(); });
      response.on('error', reject);
      response.on('end', () => {
        const { statusCode: status = 0 } = response;
        resolve({ status, sight: status === OK ? JSON.parse(body) as Sight : null });
      });
    };
    const request = authority === undefined ? plainRequest(common, take)
      : tlsRequest({ ...common, servername: host, ca: authority }, take);
    const timer = setTimeout(() => request.destroy(new Error('no answer in time')), timeoutMs);
    request.on('error', reject);
    request.on('close', () => clearTimeout(timer));
    request.end();
  });
}

serveThread<WebRequest>((request) => request.verb === 'serve' ? serve(request) : get(request));
