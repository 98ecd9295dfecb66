// What the rest of Culvert uses of policy modules, but for building them (build.ts).

export { ModuleError, type ModuleFault } from './error.ts';
export { VERDICTS, type ModuleLevel, type ModuleVerdict } from './flow.ts';
export { decodeImage, encodeImage, GRANTS, loadImage, saveImage, type ModuleImage,
  type WasiName } from './image.ts';
export { inspectComponent, type CompileCost } from './inspect.ts';
export { instantiateModule, type ModuleEndpoint, type ModuleHost, type ModuleInfo,
  type ModuleInstance } from './instance.ts';
