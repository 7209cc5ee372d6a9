//! GPUs by CUDA: opening one, and compiling and launching programs on it.
//!
//! A program is CUDA C++ that lies beside the Rust file that launches it. NVRTC compiles it for the GPU's architecture
//! when it is first used, once in a process, so that one binary serves GPUs that it has never heard of.
//!
//! Launching is `unsafe`: nothing checks that a kernel stays within what it is given. Each module that launches is small,
//! checks every length before, and has the CPU's code as its safe twin.

#![expect(unsafe_code, reason = "the driver's functions are C; each use says why it is sound")]

use super::room::{self, Room};
use crate::error::{Error, Result};
use candle_core::Device;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

pub(crate) use candle_core::CudaStorage;
pub(crate) use candle_core::cuda_backend::{CudaDevice, DeviceId, WrapErr, cudarc};
pub(crate) use cudarc::driver::{LaunchConfig, PushKernelArg};

use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaFunction, CudaModule, CudaStream, DriverError, LaunchArgs, result};
use cudarc::nvrtc::{CompileError, CompileOptions, Ptx, compile_ptx_with_opts};

/// The GPUs that this process has opened, by slot. Tensors of one are strangers to another opening of the same GPU.
static OPEN: Mutex<BTreeMap<usize, Device>> = Mutex::new(BTreeMap::new());

/// Opens the GPU in the given slot, or gives the one that is open.
pub(super) fn open(slot: usize) -> Result<Device> {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(device) = open.get(&slot) {
        return Ok(device.clone());
    }
    let device = open_anew(slot)?;
    open.insert(slot, device.clone());
    Ok(device)
}

fn open_anew(slot: usize) -> Result<Device> {
    check_driver()?;
    let shown = result::device::get_count().map_err(|e| no_driver(e).note("it cannot say how many GPUs there are"))?;
    if usize::try_from(shown).is_ok_and(|shown| slot >= shown) {
        return Err(Error::resources(format!("there is no GPU {slot}"))
            .note(format!("the driver shows this process {shown} of them{}", visible()))
            .hint("`nvidia-smi -L` lists the machine's; CUDA_VISIBLE_DEVICES hides some from a process"));
    }
    // With a stream of its own and not the calling thread's: batches are read by one thread and computed on by another.
    let device = Device::new_cuda_with_stream(slot).map_err(|e| cannot_open(slot, &e.to_string()))?;
    if let Device::Cuda(gpu) = &device {
        check_architecture(slot, gpu)?;
        // Sound: all work of this process on this device is on its one stream, so that nothing has to wait for events.
        // They would cost each launch several calls of the driver.
        unsafe { gpu.disable_event_tracking() };
        keep_memory(gpu);
    }
    Ok(device)
}

/// The CUDA that this program is made for: 13000 for 13.0.
pub(super) const BUILT_WITH: i32 = sys::CUDA_VERSION as i32;

/// Whether all of CUDA's libraries are there, and a driver that is new enough.
fn check_driver() -> Result<()> {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    super::libraries::load()?;
    result::init().map_err(no_driver)?;
    let mut version = 0;
    // Sound: it writes one number.
    let told = unsafe { sys::cuDriverGetVersion(&raw mut version) };
    let built = BUILT_WITH;
    if told == CUresult::CUDA_SUCCESS && version < built {
        let name = |version: i32| format!("CUDA {}.{}", version / 1000, version % 1000 / 10);
        return Err(Error::resources("the NVIDIA driver is too old for this hashpipe")
            .note(format!("the driver is for {}, this hashpipe was built with {}", name(version), name(built)))
            .hint("update the driver (CUDA 13.0 needs 580 or newer), or build with an older CUDA toolkit")
            .hint(super::USE_THE_CPU));
    }
    Ok(())
}

/// What it means that the driver cannot be started.
fn no_driver(error: DriverError) -> Error {
    let error_of = |message: &str, hint: &str| Error::resources(message).hint(hint);
    let told = match error.0 {
        CUresult::CUDA_ERROR_NO_DEVICE => error_of(
            "the NVIDIA driver finds no GPU",
            "`nvidia-smi -L` lists the machine's; a container must be started with them (`--gpus all`)",
        ),
        CUresult::CUDA_ERROR_STUB_LIBRARY => error_of(
            "`libcuda.so.1` is not the NVIDIA driver but a stand-in for linking",
            "take the folder with `stubs` in its name out of LD_LIBRARY_PATH",
        ),
        CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH | CUresult::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE => error_of(
            "`libcuda.so.1` and the NVIDIA driver in the kernel are of different versions",
            "restart the machine after an update of the driver; take CUDA's `compat` folder out of LD_LIBRARY_PATH",
        ),
        _ => error_of("the NVIDIA driver cannot be started", "`nvidia-smi` tells more"),
    };
    told.note(format!("{:?}{}", error.0, visible())).hint(super::USE_THE_CPU)
}

/// `CUDA_VISIBLE_DEVICES`, if it is set, to be put behind a text.
fn visible() -> String {
    let visible = std::env::var_os("CUDA_VISIBLE_DEVICES");
    visible.map(|text| format!("; CUDA_VISIBLE_DEVICES is `{}`", text.display())).unwrap_or_default()
}

fn cannot_open(slot: usize, reason: &str) -> Error {
    Error::resources(format!("cannot open GPU {slot}"))
        .note(reason.lines().next().unwrap_or_default().to_string())
        .hint("`nvidia-smi` shows whether the driver sees the card, and who uses it")
        .hint(super::USE_THE_CPU)
}

/// candle's own kernels lie in the binary for one architecture; from 9.0 on, NVIDIA's compiler makes them for that alone.
fn check_architecture(slot: usize, gpu: &CudaDevice) -> Result<()> {
    let Some(built) = option_env!("CUDA_COMPUTE_CAP").and_then(|cap| cap.parse::<i32>().ok()) else { return Ok(()) };
    let (major, minor) = architecture(gpu).map_err(|e| cannot_open(slot, &e.to_string()))?;
    let has = 10 * major + minor;
    if has == built || has > built && built < 90 {
        return Ok(());
    }
    Err(Error::resources(format!("this hashpipe was not built for GPU {slot}"))
        .note(format!(
            "the GPU is of compute capability {major}.{minor}, the build for {}.{}{}",
            built / 10,
            built % 10,
            if built < 90 { " and above" } else { " alone" }
        ))
        .hint(format!("build with CUDA_COMPUTE_CAP={}", has.min(80))))
}

/// Memory that a step has given back is kept for the next one: to get it from the driver anew takes longer than to use it.
fn keep_memory(gpu: &CudaDevice) {
    let stream = gpu.cuda_stream();
    let context = stream.context();
    if !context.has_async_alloc() {
        return;
    }
    let mut threshold = u64::MAX;
    // Sound: the pool is this device's, and the attribute is a u64. Failure costs time only.
    unsafe {
        let Ok(pool) = result::device::get_default_mem_pool(context.cu_device()) else { return };
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        let _ = result::mem_pool::set_attribute(pool, attribute, (&raw mut threshold).cast());
    }
}

/// The room on a GPU for this process.
///
/// # Errors
/// A GPU that was lost.
pub(crate) fn room(gpu: &CudaDevice) -> candle_core::Result<Room> {
    let stream = gpu.cuda_stream();
    let context = stream.context();
    let (free, total) = context.mem_get_info().w()?;
    let given = room::given(context.ordinal());
    // Sound: the pool is this device's, and the attributes are u64.
    let pool = unsafe { result::device::get_default_mem_pool(context.cu_device()) }.ok();
    let attribute = |which| {
        let mut value = 0u64;
        let pool = pool.filter(|_| context.has_async_alloc())?;
        unsafe { result::mem_pool::get_attribute(pool, which, (&raw mut value).cast()) }.ok().map(|()| value)
    };
    let used = attribute(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT);
    let peak = attribute(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH);
    let reserved = attribute(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT);
    Ok(match (used, peak, reserved) {
        // What the pool keeps is free for this process.
        (Some(held), Some(peak), Some(reserved)) => {
            Room { free: (free as u64).saturating_add(reserved.saturating_sub(held)), given, held, peak }
        }
        // Nobody tells whose it is.
        _ => {
            let held = total.saturating_sub(free) as u64;
            Room { free: free as u64, given, held, peak: held }
        }
    })
}

/// Major and minor compute capability.
fn architecture(gpu: &CudaDevice) -> candle_core::Result<(i32, i32)> {
    gpu.cuda_stream().context().compute_capability().w()
}

/// Kernels in CUDA C++, compiled together.
pub(crate) struct Program {
    name: &'static str,
    /// Put one after the other.
    source: &'static [&'static str],
}

/// A kernel and the stream it is launched on.
pub(crate) struct CudaFunc {
    function: CudaFunction,
    stream: Arc<CudaStream>,
}

impl CudaFunc {
    /// Takes the arguments one by one, then launches.
    pub(crate) fn builder(&self) -> LaunchArgs<'_> {
        self.stream.launch_builder(&self.function)
    }
}

/// What there is by name for each of something.
type Named<K, V> = LazyLock<Mutex<HashMap<(K, &'static str), V>>>;

/// The compiled programs of this process, by architecture.
static COMPILED: Named<(i32, i32), Ptx> = LazyLock::new(Mutex::default);
/// Those that lie on a device. They are never unloaded: a process has one device for all its life.
static LOADED: Named<DeviceId, Arc<CudaModule>> = LazyLock::new(Mutex::default);

impl Program {
    /// `name` stands for it in messages, and must be its own.
    pub(crate) const fn new(name: &'static str, source: &'static [&'static str]) -> Self {
        Self { name, source }
    }

    /// One of its kernels, ready to be launched on the device's stream.
    ///
    /// # Errors
    /// If the program does not compile or has no such kernel: both are faults of this program, unless NVRTC's own
    /// libraries are missing.
    pub(crate) fn function(&self, device: &CudaDevice, name: &str) -> candle_core::Result<CudaFunc> {
        let function = self.module(device)?.load_function(name);
        let function = function.map_err(|e| self.fault(&format!("it has no kernel `{name}`: {e}")))?;
        Ok(CudaFunc { function, stream: device.cuda_stream() })
    }

    fn module(&self, device: &CudaDevice) -> candle_core::Result<Arc<CudaModule>> {
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = loaded.get(&(device.id(), self.name)) {
            return Ok(module.clone());
        }
        let module = device.cuda_stream().context().load_module(self.compiled(architecture(device)?)?);
        let module = module.map_err(|e| self.fault(&format!("the driver does not take it: {e}")))?;
        loaded.insert((device.id(), self.name), module.clone());
        Ok(module)
    }

    fn compiled(&self, architecture: (i32, i32)) -> candle_core::Result<Ptx> {
        // Newer drivers take programs for older GPUs; NVRTC may be older than the GPU.
        let architecture = architecture.min((9, 0));
        let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = compiled.get(&(architecture, self.name)) {
            return Ok(program.clone());
        }
        let (major, minor) = architecture;
        let options = CompileOptions {
            options: vec![format!("--gpu-architecture=compute_{major}{minor}"), "--std=c++17".into()],
            name: Some(format!("{}.cu", self.name)),
            ..CompileOptions::default()
        };
        let program = compile_ptx_with_opts(self.source.concat(), options).map_err(|e| match e {
            CompileError::CompileError { nvrtc, log, .. } => {
                self.fault(&format!("it does not compile: {:?}: {}", nvrtc.0, log.to_string_lossy().trim()))
            }
            e => self.fault(&format!("it does not compile: {e}")),
        })?;
        compiled.insert((architecture, self.name), program.clone());
        Ok(program)
    }

    fn fault(&self, what: &str) -> candle_core::Error {
        candle_core::Error::Msg(format!("GPU program `{}`: {what}", self.name))
    }
}

#[cfg(test)]
mod cuda_tests {
    use super::*;

    const PROGRAM: Program = Program::new(
        "cuda_tests",
        &[
            "__device__ int twice(int x) { return 2 * x; }\n",
            "extern \"C\" __global__ void kernel(int* x, int n) {
            int i = blockIdx.x * blockDim.x + threadIdx.x;
            if (i < n) x[i] = twice(x[i]);
        }",
        ],
    );

    #[test]
    fn a_program_is_compiled_once_and_runs() {
        let Some(device) = crate::device::for_test(0) else { return };
        let Device::Cuda(gpu) = &device else { panic!("a GPU was asked for") };
        let mut numbers = gpu.clone_htod(&(0..1000).collect::<Vec<i32>>()).unwrap();
        for _ in 0..2 {
            let kernel = PROGRAM.function(gpu, "kernel").unwrap();
            let mut builder = kernel.builder();
            builder.arg(&mut numbers).arg(&1000i32);
            // Sound: there are 1000 numbers.
            unsafe { builder.launch(LaunchConfig::for_num_elems(1000)) }.unwrap();
        }
        let numbers = gpu.clone_dtoh(&numbers).unwrap();
        assert!(numbers.iter().enumerate().all(|(i, &x)| x == 4 * i as i32));
        let missing = PROGRAM.function(gpu, "another").err().unwrap().to_string();
        assert!(missing.contains("`cuda_tests`") && missing.contains("`another`"), "{missing}");
        let wrong = Program::new("wrong", &["extern \"C\" __global__ void kernel() { nonsense; }"]);
        assert!(wrong.function(gpu, "kernel").err().unwrap().to_string().contains("nonsense"));
    }

    #[test]
    fn what_is_allocated_is_held_and_not_free() {
        let Some(device) = crate::device::for_test(0) else { return };
        let Device::Cuda(gpu) = &device else { panic!("a GPU was asked for") };
        let numbers = gpu.alloc_zeros::<u8>(3 << 20).unwrap();
        let room = room(gpu).unwrap();
        assert!(room.held >= 3 << 20 && room.peak >= room.held && room.free > 0, "{room:?}");
        assert_eq!((room.given, room.left()), (None, room.free));
        drop(numbers);
    }

    #[test]
    fn a_slot_that_is_not_there_is_an_error() {
        let error = crate::device::open(Some(1000)).err().unwrap();
        assert_eq!(error.kind(), crate::error::Kind::Resources, "{error:?}");
    }
}
