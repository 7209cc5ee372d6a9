//! The table: what programs say when something goes wrong on a GPU.
//!
//! The words are those of CUDA's driver and run-time library and of programs that quote them. They were collected from
//! sources and manuals, not from faults of our own.

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    OutOfMemory,
    LibraryMissing,
    DriverTooOld,
    NoKernelImage,
    IllegalAddress,
    Assert,
    LaunchFailed,
    LaunchTooLarge,
    Timeout,
    Lost,
    Busy,
    NoDevice,
    Communication,
}

/// What programs say of a fault, in lower case. All pieces of a saying stand in one line.
struct Entry {
    fault: Fault,
    sayings: &'static [&'static [&'static str]],
}

const fn entry(fault: Fault, sayings: &'static [&'static [&'static str]]) -> Entry {
    Entry { fault, sayings }
}

/// The first entry that anything said matches is the fault: what is certain stands before what may be its consequence.
const TABLE: &[Entry] = &[
    entry(
        Fault::OutOfMemory,
        &[
            // CUDA's driver, as cudarc and candle, TensorFlow, Numba and PyCUDA quote it; and its run-time library.
            &["cuda_error_out_of_memory"],
            &["cudaerrormemoryallocation"],
            // PyTorch: "CUDA out of memory. Tried to allocate 20.00 MiB", "CUDA error: out of memory"; CuPy, llama.cpp.
            &["cuda", "out of memory"],
            &["hip", "out of memory"],
            &["cuda", "outofmemoryerror"],
            &["cublas_status_alloc_failed"],
            &["cudnn_status_alloc_failed"],
            // TensorFlow: "OOM when allocating tensor with shape[..] on ../device:GPU:0 by allocator GPU_0_bfc".
            &["oom when allocating tensor", "gpu"],
            // JAX: "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 3743729664 bytes",
            // "RESOURCE_EXHAUSTED: Failed to allocate request for 2.99GiB (..B) on device ordinal 0".
            &["resource_exhausted", "out of memory"],
            &["resource exhausted", "out of memory"],
            &["resource_exhausted", "failed to allocate request"],
            &["resource exhausted", "failed to allocate request"],
        ],
    ),
    // The loader of the system; cudarc; TensorFlow; cuDNN's own loader; ONNX Runtime. Counts with a name of [`LIBRARIES`].
    entry(
        Fault::LibraryMissing,
        &[
            &["lib", ".so", "cannot open shared object file"],
            &["unable to dynamically load"],
            &["could not load dynamic library"],
            &["could not load library", "lib"],
            &["unable to load any of", "lib"],
            &["failed to load library", "lib"],
        ],
    ),
    entry(
        Fault::DriverTooOld,
        &[
            &["cuda driver version is insufficient for cuda runtime version"],
            &["cudaerrorinsufficientdriver"],
            &["the nvidia driver on your system is too old"],
            &["cuda_error_unsupported_ptx_version"],
            &["cudaerrorunsupportedptxversion"],
            &["ptx was compiled with an unsupported toolchain"],
            &["cuda_error_system_driver_mismatch"],
            &["system has unsupported display driver / cuda driver combination"],
            &["cuda_error_compat_not_supported_on_device"],
            &["forward compatibility was attempted on non supported hw"],
            &["driver/library version mismatch"],
        ],
    ),
    entry(
        Fault::NoKernelImage,
        &[
            &["no kernel image is available"],
            &["cuda_error_no_binary_for_gpu"],
            &["cudaerrornokernelimagefordevice"],
            &["is not compatible with the current pytorch installation"],
            &["cuda_error_invalid_ptx"],
            &["a ptx jit compilation failed"],
            &["nvrtc", "invalid value for --gpu-architecture"],
            &["cudnn_status_arch_mismatch"],
            &["cublas_status_arch_mismatch"],
        ],
    ),
    entry(
        Fault::Lost,
        &[
            &["fallen off the bus"],
            &["gpu is lost"],
            &["uncorrectable ecc error"],
            &["cuda_error_ecc_uncorrectable"],
            &["cudaerroreccuncorrectable"],
            &["cuda_error_nvlink_uncorrectable"],
            &["uncorrectable nvlink error"],
            &["cuda_error_contained"],
            &["device requires a reset"],
        ],
    ),
    entry(Fault::Assert, &[&["device-side assert triggered"], &["cuda_error_assert"], &["cudaerrorassert"]]),
    entry(
        Fault::IllegalAddress,
        &[
            &["illegal memory access"],
            &["cuda_error_illegal_address"],
            &["cudaerrorillegaladdress"],
            &["cuda_error_misaligned_address"],
            &["cudaerrormisalignedaddress"],
            &["cuda", "misaligned address"],
            &["cuda_error_invalid_address_space"],
        ],
    ),
    entry(Fault::Timeout, &[&["cuda_error_launch_timeout"], &["the launch timed out and was terminated"]]),
    entry(
        Fault::LaunchTooLarge,
        &[&["cuda_error_launch_out_of_resources"], &["too many resources requested for launch"]],
    ),
    entry(
        Fault::Busy,
        &[
            &["cuda-capable device(s) is/are busy or unavailable"],
            &["all cuda-capable devices are busy or unavailable"],
            &["cuda_error_device_unavailable"],
            &["cudaerrordevicesunavailable"],
            &["cudaerrordevicealreadyinuse"],
        ],
    ),
    entry(
        Fault::NoDevice,
        &[
            &["no cuda-capable device is detected"],
            &["cuda_error_no_device"],
            &["cudaerrornodevice"],
            &["no cuda gpus are available"],
            &["torch.cuda.is_available() is false"],
            &["found no nvidia driver on your system"],
            &["cuda_error_invalid_device"],
            &["invalid device ordinal"],
        ],
    ),
    entry(
        Fault::LaunchFailed,
        &[
            &["unspecified launch failure"],
            &["cuda_error_launch_failed"],
            &["cudaerrorlaunchfailure"],
            &["cuda_error_illegal_instruction"],
            &["cuda", "illegal instruction was encountered"],
            &["cuda_error_hardware_stack_error"],
            &["cuda_error_invalid_pc"],
            &["cublas_status_execution_failed"],
            &["cudnn_status_execution_failed"],
            &["cuda_error_unknown"],
        ],
    ),
    entry(
        Fault::Communication,
        &[&["nccl", "unhandled"], &["ncclsystemerror"], &["ncclinternalerror"], &["ncclremoteerror"]],
    ),
];

/// Libraries that CUDA programs are linked with: the beginning of the name, what it is, and the package of Python's index
/// that has it.
const LIBRARIES: &[(&str, &str, &str)] = &[
    ("libcuda.so", "NVIDIA's driver", ""),
    ("libnvidia-", "NVIDIA's driver", ""),
    ("libcublas", "cuBLAS", "nvidia-cublas"),
    ("libcudnn", "cuDNN", "nvidia-cudnn-cu13"),
    ("libnvrtc", "NVRTC", "nvidia-cuda-nvrtc"),
    ("libcurand", "cuRAND", "nvidia-curand"),
    ("libnccl", "NCCL", "nvidia-nccl-cu13"),
    ("libcudart", "CUDA's run-time library", "nvidia-cuda-runtime"),
    ("libcufft", "cuFFT", "nvidia-cufft"),
    ("libcusparse", "cuSPARSE", "nvidia-cusparse"),
    ("libcusolver", "cuSOLVER", "nvidia-cusolver"),
    ("libnvjitlink", "nvJitLink", "nvidia-nvjitlink"),
    ("libcupti", "CUPTI", "nvidia-cuda-cupti"),
];

/// What a text says went wrong on a GPU, and the line that says it.
pub(super) fn fault(text: &str) -> Option<(Fault, &str)> {
    let lines: Vec<(String, &str)> = text.lines().map(|line| (line.to_lowercase(), line)).collect();
    TABLE.iter().find_map(|entry| {
        let says = |low: &str| {
            entry.sayings.iter().any(|pieces| pieces.iter().all(|piece| low.contains(piece)))
                && (entry.fault != Fault::LibraryMissing || library(low).is_some())
        };
        lines.iter().find(|(low, _)| says(low)).map(|(_, line)| (entry.fault, *line))
    })
}

/// The library that a line names: its name, and what it is.
pub(super) fn library(line: &str) -> Option<(String, &'static (&'static str, &'static str, &'static str))> {
    // cudarc says "cublas" where others say "libcublas.so.13".
    let by_cudarc = line.contains("dynamically load");
    let words = line.split(|c: char| !(c.is_ascii_alphanumeric() || "._-+".contains(c)));
    words.map(|word| word.trim_end_matches('.')).find_map(|word| {
        let low = word.to_lowercase();
        let is_it = |(begin, _, _): &&(&str, &str, &str)| {
            let short = begin.trim_start_matches("lib").trim_end_matches(".so");
            low.starts_with(begin) || (low == short && by_cudarc)
        };
        LIBRARIES.iter().find(is_it).map(|library| (word.to_string(), library))
    })
}
