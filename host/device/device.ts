// What every device is to the loop: something that fills slots and takes them.

/** Gives and takes batches of packets. Devices wrap devices: pcap, loopback, fault. */
export interface Device {
  readonly name: string;
  /** Descriptors to wait for; empty where the device has none. */
  readonly descriptors: readonly number[];
  /** True where read() has something though no descriptor says so. */
  readonly isPending: boolean;
  /** Fills up to `count` slots from `first` on, and no more once they hold `bytes`. Returns how
   * many, or a negative errno when the device is gone. Nothing to read is 0. */
  read(first: number, count: number, bytes?: number): number;
  /** Takes a send of the outbox, at once or at flush(). All it points at stays until then. */
  write(send: number): void;
  /** Ends a batch of writes. Returns 0, or a negative errno when the device is gone. */
  flush(): number;
  /** Closes descriptors that the device itself opened. */
  close(): void;
}
