// The first bytes of a connection as they come: in pieces, not always in order, some of them twice.

/** The host shows fewer packets of a flow. */
const PIECES_LIMIT = 16;

export class Pieces {
  /** By offset. */
  private readonly pieces: Uint8Array[] = [];
  private readonly offsets: i32[] = [];

  /** Takes a piece. False where it says other bytes than an earlier one in the same place: one of
   * both is for our eyes only. */
  add(offset: i32, piece: Uint8Array): bool {
    if (this.pieces.length == PIECES_LIMIT) return false;
    let place = 0;
    for (let at = 0; at < this.pieces.length; at += 1) {
      if (!this.agrees(at, offset, piece)) return false;
      if (this.offsets[at] <= offset) place = at + 1;
    }
    this.pieces.push(piece);
    this.offsets.push(offset);
    for (let at = this.pieces.length - 1; at > place; at -= 1) {
      this.pieces[at] = this.pieces[at - 1];
      this.offsets[at] = this.offsets[at - 1];
    }
    this.pieces[place] = piece;
    this.offsets[place] = offset;
    return true;
  }

  /** The bytes from the connection's first on, up to the first gap. */
  joined(): Uint8Array {
    let end = 0;
    for (let at = 0; at < this.pieces.length && this.offsets[at] <= end; at += 1) {
      end = max(end, this.offsets[at] + this.pieces[at].length);
    }
    const joined = new Uint8Array(end);
    for (let at = 0; at < this.pieces.length && this.offsets[at] < end; at += 1) {
      joined.set(this.pieces[at], this.offsets[at]);
    }
    return joined;
  }

  /** True if a piece and the one at `index` say the same where they overlap. */
  private agrees(index: i32, offset: i32, piece: Uint8Array): bool {
    const other = this.pieces[index];
    const start = max(offset, this.offsets[index]);
    const end = min(offset + piece.length, this.offsets[index] + other.length);
    for (let at = start; at < end; at += 1) {
      if (piece[at - offset] != other[at - this.offsets[index]]) return false;
    }
    return true;
  }
}
