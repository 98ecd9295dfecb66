// Routes to peers without a tunnel, in the kernel's table.
//
//   [ namespace: link 192.0.2.1/24, device 10.244.1.0/32 ]

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { DirectRoute } from '../../engine/tunnel-needs.ts';
import { Links } from '../../ffi/netlink.ts';
import { createNamespace, readSysctl, type Namespace } from '../../ffi/netns.ts';
import { DirectRouting } from '../../host/direct-routing.ts';
import { testNeeding } from '../support/needs.ts';

const test = suite('host/direct-routing');
const MARK = 67;
const A: DirectRoute = { prefix: '10.244.2.0/24', via: '192.0.2.2' };
const B: DirectRoute = { prefix: '10.244.3.0/24', via: '192.0.2.3' };
const MOVED: DirectRoute = { ...A, via: '192.0.2.4' };

class Bed {
  readonly namespace: Namespace = createNamespace();
  readonly links: Links = this.namespace.run(() => new Links());

  async open(): Promise<this> {
    const all = [['link', '192.0.2.1/24'], ['device', '10.244.1.0/32']] as const;
    for (const [name, address] of all) {
      await this.links.addVeth(name, `${name}-end`);
      await this.links.setLink(name, { up: true });
      await this.links.setLink(`${name}-end`, { up: true });
      await this.links.addAddress(name, address);
    }
    return this;
  }

  make(): DirectRouting {
    return new DirectRouting(this.links, 'link', 'device');
  }

  set(routing: DirectRouting, routes: DirectRoute[]): Promise<void> {
    return this.#begin(() => routing.set(routes));
  }

  check(routing: DirectRouting): Promise<void> {
    return this.#begin(() => routing.check());
  }

  /** What is set of the stack for IPv4 is set at once, in the namespace of the thread. */
  #begin(work: () => Promise<void>): Promise<void> {
    const begun: Promise<void>[] = [];
    this.namespace.run(() => void begun.push(work()));
    return begun[0] ?? Promise.reject(new Error('not begun'));
  }

  async present(): Promise<string[]> {
    const routes = await this.links.routes();
    return routes.filter(({ protocol }) => protocol === MARK)
      .map(({ prefix, via, device }) => `${prefix} ${via} ${device}`).sort();
  }

  close(): void {
    this.links.close();
    this.namespace.close();
  }
}

function inBed(name: string, body: (bed: Bed) => Promise<void>): void {
  testNeeding('root', test, name, async () => {
    const bed = new Bed();
    try {
      await body(await bed.open());
    } finally {
      bed.close();
    }
  });
}

const shown = ({ prefix, via }: DirectRoute): string => `${prefix} ${via} link`;

inBed('routes come, move and go, and the stack forwards between both interfaces', async (bed) => {
  const routing = bed.make();
  await bed.set(routing, [A, B]);
  assert.equal(await bed.present(), [shown(A), shown(B)]);
  for (const name of ['link', 'device']) {
    assert.is(bed.namespace.run(() => readSysctl(`net/ipv4/conf/${name}/forwarding`)), '1');
  }
  assert.is(bed.namespace.run(() => readSysctl('net.ipv4.ip_forward')), '0');
  await bed.set(routing, [MOVED]);
  assert.equal(await bed.present(), [shown(MOVED)]);
  await bed.set(routing, []);
  assert.equal(await bed.present(), []);
  assert.equal(routing.problems, []);
});

inBed('a link that went down has its routes again', async (bed) => {
  const routing = bed.make();
  await bed.set(routing, [A]);
  await bed.links.setLink('link', { up: false });
  assert.equal(await bed.present(), []);
  await bed.check(routing);
  assert.is(routing.problems.length, 1, 'there is no way to the peer');
  await bed.links.setLink('link', { up: true });
  await bed.check(routing);
  assert.equal(await bed.present(), [shown(A)]);
  assert.equal(routing.problems, []);
});

inBed('what an earlier daemon has left goes, what is of others stays', async (bed) => {
  await bed.set(bed.make(), [A, B]);
  await bed.links.removeRoute({ prefix: B.prefix, device: 'link' });
  await bed.links.addRoute({ prefix: B.prefix, via: '192.0.2.9', device: 'link' });
  const next = bed.make();
  await bed.set(next, [B]);
  assert.equal(await bed.present(), []);
  assert.match(next.problems.join(), /10\.244\.3\.0\/24.*EEXIST/);
  const others = await bed.links.routes();
  assert.ok(others.some(({ prefix, via }) => prefix === B.prefix && via === '192.0.2.9'));
});

test.run();
