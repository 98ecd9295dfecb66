export interface DemoOptions { output: 'table' | 'json'; keep: boolean; cluster?: string }
export async function demo(_options: DemoOptions, _stop: AbortSignal): Promise<number> { return 1; }
