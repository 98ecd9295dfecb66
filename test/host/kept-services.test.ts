// Connections to Services outlive their daemon: a second core takes the first one's flows over, and
// each stays with its backend while the Service has that.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { closeFd } from '../../ffi/file.ts';
import { keepFlows } from '../../host/kept-flows.ts';
import { TCP, fateOf, tcpPacket, type Flow } from '../support/policy-core.ts';
import { ServiceBed, service } from '../support/service-core.ts';

const test = suite('host/kept-services');
const PODS = { a: ['10.1.0.2', 'fd00:1::2'] };
const CLIENT = '10.1.0.2';
const FRONT = '10.96.0.10';
const BACKENDS = ['10.1.1.7', '10.1.2.7', '10.1.1.8', '10.1.2.8'];
const CONNECTIONS = 40;
const AFFINITY_SECONDS = 10_800;

/** A node that serves, with the flows of `held`. */
function makeBed(held: number, backends: string[], affinitySeconds: number): {
  bed: ServiceBed; fd: number;
} {
  const bed = new ServiceBed(PODS, { policy: { flows: 1024 } });
  const { fd } = keepFlows(bed.core, held, bed.nowMs);
  bed.serve(service([FRONT], backends, { affinitySeconds }));
  return { bed, fd };
}

function request(sourcePort: number): Flow {
  return { source: CLIENT, destination: FRONT, sourcePort };
}

function reply(backend: string, destinationPort: number): Uint8Array {
  return tcpPacket({
    source: backend, destination: CLIENT, sourcePort: 8080, destinationPort,
  }, TCP.ack);
}

function peerOf(backend: string): number {
  return Number(backend.split('.')[2]);
}

for (const affinitySeconds of [0, AFFINITY_SECONDS]) {
  test(`with an affinity of ${affinitySeconds} s`, () => {
    const first = makeBed(-1, BACKENDS, affinitySeconds);
    const given = new Map<number, string>();
    for (let port = 1000; port < 1000 + CONNECTIONS; port += 1) {
      const { destination } = first.bed.through('a', tcpPacket(request(port), TCP.syn));
      first.bed.back(peerOf(destination), reply(destination, port));
      first.bed.through('a', tcpPacket(request(port), TCP.ack));
      given.set(port, destination);
    }
    assert.is(new Set(given.values()).size, affinitySeconds === 0 ? BACKENDS.length : 1);

    // The next daemon meets them before and after it serves the same.
    const second = makeBed(first.fd, BACKENDS, affinitySeconds);
    for (const [port, backend] of given) {
      const back = second.bed.back(peerOf(backend), reply(backend, port));
      assert.equal([back.source, back.sourcePort], [FRONT, 80]);
      const out = second.bed.through('a', tcpPacket(request(port), TCP.ack));
      assert.equal([out.destination, out.destinationPort], [backend, 8080]);
    }
    const next = second.bed.through('a', tcpPacket(request(5000), TCP.syn));
    if (affinitySeconds > 0) assert.is(next.destination, given.get(1000));

    const left = BACKENDS.filter((backend) => backend !== given.get(1000));
    const third = makeBed(second.fd, left, affinitySeconds);
    for (const [port, backend] of given) {
      const packet = tcpPacket(request(port), TCP.ack);
      if (left.includes(backend)) {
        assert.is(third.bed.through('a', packet).destination, backend);
      } else {
        assert.is(fateOf(third.bed.send('a', packet)), 'serviceGone');
      }
    }
    closeFd(third.fd);
  });
}

test.run();
