// Uids in half the memory: the usual form, 32 hexadecimal digits and four hyphens (RFC 9562), as 16
// characters of one byte each. What has another form stays as it is. The order stays, too.

const USUAL = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const PACKED_LENGTH = 16;
/** No uid that stays as it is begins with it. */
const ESCAPE = '\uffff';

export function packUid(uid: string): string {
  if (USUAL.test(uid)) return Buffer.from(uid.replaceAll('-', ''), 'hex').toString('latin1');
  return uid.length === PACKED_LENGTH ? ESCAPE + uid : uid;
}

export function unpackUid(packed: string): string {
  if (packed.startsWith(ESCAPE)) return packed.slice(ESCAPE.length);
  if (packed.length !== PACKED_LENGTH) return packed;
  const digits = Buffer.from(packed, 'latin1').toString('hex');
  return [
    digits.slice(0, 8), digits.slice(8, 12), digits.slice(12, 16), digits.slice(16, 20),
    digits.slice(20),
  ].join('-');
}
