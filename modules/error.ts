// What can be wrong with a policy module.

/** Kinds of faults that programs tell apart. */
export type ModuleFault =
  | 'not-a-component' // no component, or a damaged one
  | 'too-big' // more bytes than a module may have
  | 'wit-version' // made for another version of modules/wit/policy.wit, or for another world
  | 'signature' // has the right names with other types
  | 'imports' // wants what it was not granted
  | 'unsupported' // uses WebAssembly that its limits (limits.ts) do not reach
  | 'memory' // wants more memory than it may have
  | 'timeout' // did not compile or start in time
  | 'limit' // could not be compiled within the memory for it
  | 'start' // trapped while it started or described itself
  | 'describe' // describes itself with a name or version that is none
  | 'trap' // a control call failed
  | 'configure' // refused its configuration, or trapped on it
  | 'image' // the compiled form on disk is damaged
  | 'build'; // its sources do not compile

/** A module that cannot be used; the message says why in a whole sentence. */
export class ModuleError extends Error {
  override name = 'ModuleError';
  readonly kind: ModuleFault;

  constructor(kind: ModuleFault, message: string) {
    super(message);
    this.kind = kind;
  }
}
