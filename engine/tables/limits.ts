// The answers of tables that cannot take what they are given.

/** A table has reached its limit. Nothing was changed. */
export class TableFullError extends Error {
  override name = 'TableFullError';
  readonly table: string;

  constructor(table: string, limit: number, object: string, unit = 'entries') {
    super(`add ${object} to ${table}: the table is full (${limit} ${unit})`);
    this.table = table;
  }
}
