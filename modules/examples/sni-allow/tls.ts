// Finds the server name in the first bytes of a TLS connection: the ClientHello (RFC 8446 section
// 4.1.2; RFC 5246 section 7.4.1.2 for older versions) in one or several records (RFC 8446 section
// 5.1), and in it the server_name extension (RFC 6066 section 3). Other extensions, GREASE among
// them (RFC 8701), are skipped by their length.

/** What the bytes so far turned out to be. */
export enum Hello { Unfinished, NotTls, Nameless, Named }

const RECORD_HEADER_SIZE = 5;
const RECORD_HANDSHAKE = 22;
/** RFC 8446 section 5.1: 2^14 bytes of plaintext. */
const RECORD_LIMIT = 16384;
const VERSION_MAJOR = 3;
const HANDSHAKE_HEADER_SIZE = 4;
const CLIENT_HELLO = 1;
const VERSION_SIZE = 2;
const RANDOM_SIZE = 32;
const EXTENSION_SERVER_NAME = 0;
const NAME_TYPE_HOST = 0;
/** RFC 1035 section 2.3.4. */
const NAME_LIMIT = 255;

/** Reads a ClientHello. */
export class HelloReader {
  /** The name that read() found, in small letters. */
  name: string = '';
  /** Bytes of the handshake, without the headers of the records that carry it. */
  private hello: Uint8Array = new Uint8Array(0);
  private at: i32 = 0;
  private end: i32 = 0;

  /** Reads the first bytes of a connection, as many as there are yet. */
  read(bytes: Uint8Array): Hello {
    const joined = this.joinRecords(bytes);
    if (joined != Hello.Named) return joined;
    this.at = HANDSHAKE_HEADER_SIZE + VERSION_SIZE + RANDOM_SIZE;
    if (!this.skip(1) || !this.skip(2) || !this.skip(1)) return Hello.NotTls;
    // TLS 1.2 knows a ClientHello without extensions.
    if (this.at == this.end) return Hello.Nameless;
    const length = this.number(2);
    if (length < 0 || this.at + length != this.end) return Hello.NotTls;
    while (this.at < this.end) {
      const type = this.number(2);
      const size = this.number(2);
      if (type < 0 || size < 0 || this.at + size > this.end) return Hello.NotTls;
      if (type == EXTENSION_SERVER_NAME) return this.readName(this.at + size);
      this.at += size;
    }
    return Hello.Nameless;
  }

  /** Takes the handshake out of its records. Named: all of the ClientHello is there. */
  private joinRecords(bytes: Uint8Array): Hello {
    const hello = new Uint8Array(bytes.length);
    let joined = 0;
    let at = 0;
    while (at + RECORD_HEADER_SIZE <= bytes.length) {
      const size = (<i32>bytes[at + 3] << 8) | bytes[at + 4];
      const isHandshake = bytes[at] == RECORD_HANDSHAKE && bytes[at + 1] == VERSION_MAJOR;
      if (!isHandshake || size == 0 || size > RECORD_LIMIT) return Hello.NotTls;
      at += RECORD_HEADER_SIZE;
      const part = min(size, bytes.length - at);
      memory.copy(hello.dataStart + joined, bytes.dataStart + at, part);
      joined += part;
      at += part;
      if (joined >= HANDSHAKE_HEADER_SIZE) {
        const length = (<i32>hello[1] << 16) | (<i32>hello[2] << 8) | hello[3];
        if (hello[0] != CLIENT_HELLO || length > RECORD_LIMIT) return Hello.NotTls;
        this.hello = hello;
        this.end = HANDSHAKE_HEADER_SIZE + length;
        if (joined >= this.end) return Hello.Named;
      }
    }
    const isTls = at >= bytes.length || bytes[at] == RECORD_HANDSHAKE;
    return isTls ? Hello.Unfinished : Hello.NotTls;
  }

  /** Reads the extension that ends at `end`: a list whose first host name counts. */
  private readName(end: i32): Hello {
    const list = this.number(2);
    if (list < 0 || this.at + list != end) return Hello.NotTls;
    while (this.at < end) {
      const type = this.number(1);
      const size = this.number(2);
      if (size < 0 || this.at + size > end) return Hello.NotTls;
      if (type == NAME_TYPE_HOST) return this.takeName(size);
      this.at += size;
    }
    return Hello.Nameless;
  }

  /** Takes a host name: visible ASCII. */
  private takeName(size: i32): Hello {
    if (size == 0 || size > NAME_LIMIT) return Hello.NotTls;
    for (let at = this.at; at < this.at + size; at += 1) {
      if (this.hello[at] <= 0x20 || this.hello[at] >= 0x7f) return Hello.NotTls;
    }
    const name = String.UTF8.decodeUnsafe(this.hello.dataStart + this.at, size).toLowerCase();
    this.name = name.endsWith('.') ? name.substring(0, name.length - 1) : name;
    return Hello.Named;
  }

  /** A number of some bytes; -1 where they are not there. */
  private number(size: i32): i32 {
    if (this.at + size > this.end) return -1;
    let value = 0;
    for (let left = size; left > 0; left -= 1) {
      value = (value << 8) | this.hello[this.at];
      this.at += 1;
    }
    return value;
  }

  /** Skips a field that begins with its length, a number of `size` bytes. */
  private skip(size: i32): bool {
    const length = this.number(size);
    if (length < 0 || this.at + length > this.end) return false;
    this.at += length;
    return true;
  }
}
