//! CUDA's libraries, looked for when a GPU is first asked for.
//!
//! A program that is linked with a library does not start where that is not found, and only the system's loader says why.
//! One build shall serve machines with and without GPUs, and say what is missing. So each function of CUDA that is called
//! stands here under its own name and jumps to where it was found; the linker then wants no library of CUDA.
//!
//! A function that is called somewhere and missing here is linked as usual, with its library: `scripts/gpu-emulated.sh`
//! looks for that. So it is on other processors than x86-64.
//!
//! Rejected: cudarc's own `dynamic-loading`, which excludes what candle asks of it; and a second program that starts the first.

#![expect(unsafe_code, reason = "functions of C libraries by their names")]

use crate::error::{Error, Result};
use libloading::os::unix::{Library as Opened, RTLD_GLOBAL, RTLD_NOW};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, PoisonError};

/// A function's name, and where it was found.
type Function = (&'static str, &'static AtomicPtr<()>);

/// A library, and who brings it.
struct Library {
    /// Without its version: `libcublas.so`.
    name: &'static str,
    /// That of what it is called by; nothing if it goes with CUDA's.
    version: Option<i32>,
    what: &'static str,
    /// The package of Python's index that has it; nothing for the driver.
    package: Option<&'static str>,
    functions: &'static [Function],
}

/// Finds all of CUDA's libraries that this build uses. The first call loads them, which can take a second.
///
/// # Errors
/// All libraries that are not there, or too old for a function that is called.
pub(super) fn load() -> Result<()> {
    static LOADED: Mutex<bool> = Mutex::new(false);
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if !*loaded {
        let folders = folders();
        let missing = |library: &'static Library| Some((library, library.load(&folders).err()?));
        let missing: Vec<(&Library, String)> = LIBRARIES.iter().filter_map(missing).collect();
        if !missing.is_empty() {
            return Err(told(&missing));
        }
        *loaded = true;
    }
    Ok(())
}

impl Library {
    /// `libcublas.so.13`
    fn file(&self) -> String {
        format!("{}.{}", self.name, self.version.unwrap_or(super::cuda::BUILT_WITH / 1000))
    }

    /// Loads it from where the system looks, else from the first of the folders that has it.
    ///
    /// # Errors
    /// Why it cannot be used.
    fn load(&self, folders: &[PathBuf]) -> Result<(), String> {
        let file = self.file();
        // Sound: what these libraries do when they are loaded is what they would do at the start of a program.
        let open = |path: &Path| unsafe { Opened::open(Some(path), RTLD_NOW | RTLD_GLOBAL) };
        let there = folders.iter().map(|folder| folder.join(&file)).find(|path| path.is_file());
        let opened = open(Path::new(&file)).or_else(|error| there.map_or(Err(error), |path| open(&path)));
        let library = opened.map_err(|error| error.to_string())?;
        for (name, address) in self.functions {
            // Sound: it is only jumped to, by callers that know its arguments.
            let function = unsafe { library.get::<unsafe extern "C" fn()>(name.as_bytes()) };
            let function = function.map_err(|_| format!("{file} is too old: it has no function `{name}`"))?;
            address.store(*function as *mut (), Ordering::Release);
        }
        // It stays for all of the process's life.
        std::mem::forget(library);
        Ok(())
    }
}

/// What is missing, why, and where it comes from.
fn told(missing: &[(&Library, String)]) -> Error {
    let names: Vec<String> =
        missing.iter().map(|(library, _)| format!("`{}` ({})", library.file(), library.what)).collect();
    let error = Error::resources(format!("CUDA cannot be used without {}", names.join(", ")));
    let error = missing.iter().fold(error, |error, (_, reason)| error.note(reason));
    let error = match missing.iter().any(|(library, _)| library.package.is_none()) {
        true => {
            error.hint("the driver must be there; a container must be started with it, as in `docker run --gpus all`")
        }
        false => error,
    };
    let packages: Vec<&str> = missing.iter().filter_map(|(library, _)| library.package).collect();
    let error = match &packages[..] {
        [] => error,
        packages => error.hint(format!(
            "`pip install {}` has what is missing, and so have PyTorch for CUDA 13 and `scripts/cuda-toolkit.sh libraries`; \
             put the folders into LD_LIBRARY_PATH",
            packages.join(" ")
        )),
    };
    error.hint(super::USE_THE_CPU)
}

/// Folders beside those where the system looks: of the driver in containers, of a toolkit, of what
/// `scripts/cuda-toolkit.sh` got, and of Python's packages.
fn folders() -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let mut folders = vec![PathBuf::from("/usr/local/nvidia/lib64")];
    folders.extend(["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(variable).map(|home| home.join("lib64")));
    folders.push("/usr/local/cuda/lib64".into());
    let toolkit = variable("CUDA_TOOLKIT_DIR").or_else(|| {
        let cache = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")))?;
        Some(cache.join("hashpipe-cuda-13.0"))
    });
    folders.extend(toolkit.into_iter().flat_map(|toolkit| wheels(&toolkit)));
    let prefixes = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(variable);
    for prefix in prefixes {
        folders.push(prefix.join("lib"));
        let pythons = below(&prefix.join("lib")).into_iter().filter(|folder| folder.join("site-packages").is_dir());
        folders.extend(pythons.flat_map(|python| wheels(&python.join("site-packages"))));
    }
    folders
}

/// Where NVIDIA's wheels put libraries: `nvidia/cu13/lib`, `nvidia/cudnn/lib`, ..
fn wheels(packages: &Path) -> Vec<PathBuf> {
    below(&packages.join("nvidia")).into_iter().map(|wheel| wheel.join("lib")).collect()
}

/// What a folder holds, by name; nothing if it cannot be read.
fn below(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// In place of a function whose library was not loaded: nothing of CUDA may be called before.
#[expect(clippy::print_stderr, reason = "the process ends here")]
extern "C" fn called_too_early() {
    eprintln!("error: a function of CUDA was called before its library was loaded\nhint: please report this");
    std::process::abort()
}

/// Functions of CUDA under their own names, each a jump to where it was found. Hidden, so that CUDA's libraries, which
/// call each other, do not come this way.
macro_rules! functions {
    ($($list:ident: $($function:ident)*;)*) => {
        $($(
            #[expect(non_snake_case, reason = "named after the function")]
            mod $function {
                pub(super) static FOUND: super::AtomicPtr<()> = super::AtomicPtr::new(super::called_too_early as *mut ());

                // Sound: arguments, stack and return address are left as they are.
                #[unsafe(naked)]
                #[unsafe(no_mangle)]
                unsafe extern "C" fn $function() {
                    core::arch::naked_asm!(
                        concat!(".hidden ", stringify!($function)),
                        "jmp qword ptr [rip + {found}]",
                        found = sym FOUND,
                    )
                }
            }
        )*
        const $list: &[Function] = &[$((stringify!($function), &$function::FOUND)),*];)*
    };
}

// Those that are called, and of the driver some that a change may well call next: all of them are older than CUDA 11.3.
functions! {
    DRIVER:
        cuCtxDestroy_v2 cuCtxEnablePeerAccess cuCtxGetCurrent cuCtxGetDevice cuCtxSetCurrent cuCtxSynchronize
        cuDeviceCanAccessPeer cuDeviceGet cuDeviceGetAttribute cuDeviceGetCount cuDeviceGetDefaultMemPool
        cuDeviceGetName cuDeviceGetUuid cuDevicePrimaryCtxRelease_v2 cuDevicePrimaryCtxRetain cuDeviceTotalMem_v2
        cuDriverGetVersion cuEventCreate cuEventDestroy_v2 cuEventElapsedTime cuEventQuery cuEventRecord
        cuEventSynchronize cuFuncGetAttribute cuFuncSetAttribute cuGetErrorName cuGetErrorString cuInit cuLaunchKernel
        cuMemAlloc_v2 cuMemAllocAsync cuMemFree_v2 cuMemFreeAsync cuMemFreeHost cuMemGetInfo_v2 cuMemHostAlloc
        cuMemPoolGetAttribute cuMemPoolSetAttribute cuMemPoolTrimTo cuMemcpyDtoDAsync_v2 cuMemcpyDtoH_v2
        cuMemcpyDtoHAsync_v2 cuMemcpyHtoD_v2 cuMemcpyHtoDAsync_v2 cuMemcpyPeerAsync cuMemsetD8Async
        cuModuleGetFunction cuModuleLoad cuModuleLoadData cuModuleUnload cuOccupancyMaxActiveBlocksPerMultiprocessor
        cuStreamCreate cuStreamDestroy_v2 cuStreamIsCapturing cuStreamQuery cuStreamSynchronize cuStreamWaitEvent;
    NVRTC:
        nvrtcCompileProgram nvrtcCreateProgram nvrtcDestroyProgram nvrtcGetPTX nvrtcGetPTXSize nvrtcGetProgramLog
        nvrtcGetProgramLogSize;
    CUBLAS:
        cublasCreate_v2 cublasDestroy_v2 cublasDgemmStridedBatched cublasGemmEx cublasGemmStridedBatchedEx
        cublasSetStream_v2;
    CURAND:
        curandCreateGenerator curandDestroyGenerator curandSetPseudoRandomGeneratorSeed curandSetStream;
}
#[cfg(feature = "cudnn")]
functions! {
    CUDNN:
        cudnnConvolutionBackwardData cudnnConvolutionBackwardFilter cudnnConvolutionForward cudnnCreate
        cudnnCreateConvolutionDescriptor cudnnCreateFilterDescriptor cudnnCreateTensorDescriptor cudnnDestroy
        cudnnDestroyConvolutionDescriptor cudnnDestroyFilterDescriptor cudnnDestroyTensorDescriptor
        cudnnGetConvolutionBackwardDataAlgorithm_v7 cudnnGetConvolutionBackwardDataWorkspaceSize
        cudnnGetConvolutionBackwardFilterAlgorithm_v7 cudnnGetConvolutionBackwardFilterWorkspaceSize
        cudnnGetConvolutionForwardAlgorithm_v7 cudnnGetConvolutionForwardWorkspaceSize
        cudnnSetConvolution2dDescriptor cudnnSetConvolutionMathType cudnnSetFilter4dDescriptor cudnnSetStream
        cudnnSetTensor4dDescriptor cudnnSetTensor4dDescriptorEx;
}
#[cfg(feature = "nccl")]
functions! {
    NCCL: ncclAllReduce ncclCommAbort ncclCommInitAll ncclGroupEnd ncclGroupStart;
}

const fn library(
    name: &'static str,
    version: Option<i32>,
    what: &'static str,
    package: Option<&'static str>,
    functions: &'static [Function],
) -> Library {
    Library { name, version, what, package, functions }
}

/// In the order in which they are loaded: none comes before one that it needs.
const LIBRARIES: &[Library] = &[
    library("libcuda.so", Some(1), "NVIDIA's driver", None, DRIVER),
    library("libnvrtc.so", None, "CUDA's compiler", Some("nvidia-cuda-nvrtc"), NVRTC),
    library("libcublas.so", None, "cuBLAS", Some("nvidia-cublas"), CUBLAS),
    library("libcurand.so", Some(10), "cuRAND", Some("nvidia-curand"), CURAND),
    #[cfg(feature = "cudnn")]
    library("libcudnn.so", Some(9), "cuDNN", Some("nvidia-cudnn-cu13"), CUDNN),
    #[cfg(feature = "nccl")]
    library("libnccl.so", Some(2), "NCCL", Some("nvidia-nccl-cu13"), NCCL),
];

#[cfg(test)]
mod cuda_tests {
    use super::*;

    #[test]
    fn all_that_is_missing_is_named_with_what_helps() {
        let find = |name: &str| LIBRARIES.iter().find(|library| library.name == name).unwrap();
        let missing = |names: &[&str]| {
            let missing: Vec<_> = names.iter().map(|name| (find(name), format!("no {name}"))).collect();
            told(&missing).render("error")
        };
        let all = missing(&["libcuda.so", "libcublas.so", "libcurand.so"]);
        let cublas = format!("`libcublas.so.{}` (cuBLAS)", super::super::cuda::BUILT_WITH / 1000);
        let pieces =
            ["`libcuda.so.1` (NVIDIA's driver)", &cublas, "note: no libcurand.so\n", "the driver must be there"];
        for piece in pieces.into_iter().chain(["pip install nvidia-cublas nvidia-curand`", "--gpus 0"]) {
            assert!(all.contains(piece), "{piece}\n{all}");
        }
        assert!(!missing(&["libcuda.so"]).contains("pip install"));
        assert!(!missing(&["libcublas.so"]).contains("driver"));
    }

    #[test]
    fn a_library_is_found_where_a_wheel_has_it_and_refused_if_it_is_another() {
        let packages = tempfile::tempdir().unwrap();
        let lib = packages.path().join("nvidia/own/lib");
        std::fs::create_dir_all(&lib).unwrap();
        assert_eq!(wheels(packages.path()), std::slice::from_ref(&lib));
        static NOWHERE: AtomicPtr<()> = AtomicPtr::new(called_too_early as *mut ());
        static FUNCTIONS: [Function; 1] = [("no_such_function", &NOWHERE)];
        let library = library("libhashpipe-own.so", Some(7), "made up", None, &FUNCTIONS);
        let why = library.load(&wheels(packages.path())).unwrap_err();
        assert!(why.contains("libhashpipe-own.so.7"), "{why}");
        std::fs::write(lib.join("libhashpipe-own.so.7"), "no library").unwrap();
        let why = library.load(&wheels(packages.path())).unwrap_err();
        assert!(why.contains("nvidia/own/lib/libhashpipe-own.so.7"), "{why}");
        // Any library that is there.
        let there = std::fs::read_to_string("/proc/self/maps").unwrap();
        let there = there.split_whitespace().find(|word| word.contains("/libc.so.6")).unwrap();
        std::fs::remove_file(lib.join("libhashpipe-own.so.7")).unwrap();
        std::os::unix::fs::symlink(there, lib.join("libhashpipe-own.so.7")).unwrap();
        let why = library.load(&wheels(packages.path())).unwrap_err();
        assert_eq!(why, "libhashpipe-own.so.7 is too old: it has no function `no_such_function`");
    }
}
