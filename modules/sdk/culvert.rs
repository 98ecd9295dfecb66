// The canonical ABI of the component model for modules in Rust (component-model, CanonicalABI.md),
// without a standard library. module.rs includes this file and defines
//
//   fn evaluate(flow: &Flow) -> Verdict
//   fn configure(config: &[u8]) -> Result<(), &'static str>
//
// Strings are passed as address and length, which is what a &str is in memory.
//
// What the host passes lies in an arena behind the module's own memory, which each call begins anew.

use core::arch::wasm32::{memory_grow, memory_size, unreachable};

#[allow(dead_code)]
#[repr(u32)]
pub enum Verdict { Pass, Allow, Deny, Reject, More }

#[allow(dead_code)]
#[repr(u32)]
pub enum Level { Debug, Info, Warn, Error }

/// The packet that opens a flow. An IPv4 address is the first word, in host order.
#[allow(dead_code)]
pub struct Flow {
    pub is_ipv6: bool,
    pub is_egress: bool,
    pub protocol: u8,
    pub tcp: u8,
    pub src_port: u16,
    pub dst_port: u16,
    pub src_identity: u32,
    pub dst_identity: u32,
    pub src: [u32; 4],
    pub dst: [u32; 4],
}

#[link(wasm_import_module = "culvert:policy/host@0.1.0")]
extern "C" {
    #[link_name = "log"]
    fn host_log(level: Level, text: *const u8, length: usize);
}

/// Writes a line into the daemon's log.
#[allow(dead_code)]
pub fn log(level: Level, text: &str) {
    unsafe { host_log(level, text.as_ptr(), text.len()) }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    unreachable()
}

const PAGE_SIZE: usize = 65536;
const ALIGNMENT: usize = 16;

extern "C" {
    static __heap_base: u8;
}

static mut ARENA: usize = 0;

unsafe fn clear_arena() {
    ARENA = &__heap_base as *const u8 as usize;
}

#[export_name = "cabi_realloc"]
unsafe extern "C" fn realloc(old: *const u8, old_size: usize, _: usize, size: usize) -> *mut u8 {
    if ARENA == 0 {
        clear_arena();
    }
    let start = (ARENA + ALIGNMENT - 1) & !(ALIGNMENT - 1);
    let end = start + size;
    let have = memory_size(0) * PAGE_SIZE;
    if end > have && memory_grow(0, (end - have + PAGE_SIZE - 1) / PAGE_SIZE) == usize::MAX {
        unreachable();
    }
    ARENA = end;
    core::ptr::copy(old, start as *mut u8, old_size.min(size));
    start as *mut u8
}

#[repr(C)]
struct Info {
    name: &'static str,
    version: &'static str,
    stateful: bool,
}

static INFO: Info = Info {
    name: env!("CULVERT_NAME"),
    version: env!("CULVERT_VERSION"),
    stateful: matches!(env!("CULVERT_STATEFUL").as_bytes(), b"true"),
};

#[export_name = "culvert:policy/policy@0.1.0#describe"]
extern "C" fn export_describe() -> *const Info {
    &INFO
}

#[repr(C)]
struct Answer {
    is_error: bool,
    problem: &'static str,
}

static mut ANSWER: Answer = Answer { is_error: false, problem: "" };

#[export_name = "culvert:policy/policy@0.1.0#configure"]
unsafe extern "C" fn export_configure(config: *const u8, length: usize) -> usize {
    let problem = configure(core::slice::from_raw_parts(config, length)).err();
    ANSWER = Answer { is_error: problem.is_some(), problem: problem.unwrap_or("") };
    clear_arena();
    core::ptr::addr_of!(ANSWER) as usize
}

#[export_name = "culvert:policy/policy@0.1.0#endpoints"]
unsafe extern "C" fn export_endpoints(_: usize, _: usize) {
    clear_arena();
}

#[export_name = "culvert:policy/policy@0.1.0#evaluate"]
extern "C" fn export_evaluate(
    family: u32, direction: u32, protocol: u32, tcp: u32, src_port: u32, dst_port: u32,
    src_identity: u32, dst_identity: u32, src0: u32, src1: u32, src2: u32, src3: u32,
    dst0: u32, dst1: u32, dst2: u32, dst3: u32,
) -> u32 {
    let flow = Flow {
        is_ipv6: family == 1,
        is_egress: direction == 1,
        protocol: protocol as u8,
        tcp: tcp as u8,
        src_port: src_port as u16,
        dst_port: dst_port as u16,
        src_identity,
        dst_identity,
        src: [src0, src1, src2, src3],
        dst: [dst0, dst1, dst2, dst3],
    };
    evaluate(&flow) as u32
}
