// Between the sidecar and the tables of Services: what the operator set applies to whatever the
// cluster says.

import type { Delta, Service, ServiceReport, ServiceSummary } from '../engine/model.ts';
import type { ServiceTables } from '../engine/tables/services.ts';
import type { HostConfig } from './config.ts';

export class ServiceGate {
  readonly tables: ServiceTables;
  readonly #settings: HostConfig['services'];

  constructor(tables: ServiceTables, settings: HostConfig['services']) {
    this.tables = tables;
    this.#settings = settings;
  }

  /** Makes `services` all there are; those in force stay where a sidecar does not speak of any. */
  replace(services: readonly Service[] | undefined): void {
    if (services !== undefined) this.tables.replace(this.#asSet(services));
  }

  apply(delta: Pick<Delta, 'services' | 'removedServices'>): void {
    const { services = [], removedServices = [] } = delta;
    this.tables.apply({ services: this.#asSet(services), removedServices });
  }

  /** Every Service in force, by name, with how many backends it has. */
  list(): ServiceSummary[] {
    const key = ({ namespace, name }: Service): string => `${namespace}/${name}`;
    return this.tables.services().sort((a, b) => (key(a) < key(b) ? -1 : 1)).map((service) => {
      const { namespace, name, addresses, ports } = service;
      return {
        namespace, name, addresses, ...this.tables.counts(service),
        ports: ports.map(({ backends, ...port }) => ({
          ...port,
          backends: backends.length,
          ready: backends.filter(({ state }) => state === 'ready').length,
        })),
      };
    });
  }

  /** A Service with its backends; null where there is none of this name. */
  get(wanted: { namespace: string; name: string }): ServiceReport | null {
    const service = this.tables.services().find(({ namespace, name }) =>
      namespace === wanted.namespace && name === wanted.name);
    return service === undefined ? null : { ...service, ...this.tables.counts(service) };
  }

  #asSet(services: readonly Service[]): Service[] {
    const { enabled, empty } = this.#settings;
    return enabled ? services.map((service) => ({ ...service, empty })) : [];
  }
}
