use super::*;

/// What programs print, by fault.
const SAID: &[(Fault, &str)] = &[
    (Fault::OutOfMemory, "Error: DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")"),
    (
        Fault::OutOfMemory,
        "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 4.00 GiB total)",
    ),
    (Fault::OutOfMemory, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."),
    (Fault::OutOfMemory, "RuntimeError: CUDA error: out of memory"),
    (Fault::OutOfMemory, "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    (Fault::OutOfMemory, "torch.OutOfMemoryError: HIP out of memory. Tried to allocate 2.00 GiB."),
    (
        Fault::OutOfMemory,
        "ResourceExhaustedError: OOM when allocating tensor with shape[64,2016,9,9] and type float on \
         /job:localhost/replica:0/task:0/device:GPU:0 by allocator GPU_0_bfc",
    ),
    (
        Fault::OutOfMemory,
        "failed to allocate 17.79G (19104890880 bytes) from device: CUDA_ERROR_OUT_OF_MEMORY: out of memory",
    ),
    (
        Fault::OutOfMemory,
        "jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8 bytes.",
    ),
    (
        Fault::OutOfMemory,
        "XlaRuntimeError: RESOURCE_EXHAUSTED: Failed to allocate request for 2.99GiB (3206250496B) on device ordinal 0",
    ),
    (Fault::OutOfMemory, "cupy.cuda.memory.OutOfMemoryError: Out of memory allocating 1,000 bytes"),
    (
        Fault::OutOfMemory,
        "Traceback (most recent call last):\n  File \"a.py\"\nRuntimeError: CUDA out of memory.\nexit 1",
    ),
    (
        Fault::LibraryMissing,
        "./prog: error while loading shared libraries: libcublas.so.13: cannot open shared object file: No such file or directory",
    ),
    (
        Fault::LibraryMissing,
        "Could not load library libcudnn_ops_infer.so.8. Error: libcudnn_ops_infer.so.8: cannot open shared object file",
    ),
    (
        Fault::LibraryMissing,
        "Unable to load any of {libcudnn_graph.so.9.1.0, libcudnn_graph.so.9.1, libcudnn_graph.so.9, libcudnn_graph.so}",
    ),
    (
        Fault::LibraryMissing,
        "thread 'main' panicked at cudarc: Unable to dynamically load the \"nccl\" shared library - searched for library names: [\"nccl\"]",
    ),
    (Fault::DriverTooOld, "RuntimeError: CUDA driver version is insufficient for CUDA runtime version"),
    (
        Fault::DriverTooOld,
        "RuntimeError: The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver",
    ),
    (
        Fault::DriverTooOld,
        "note: DriverError(CUDA_ERROR_UNSUPPORTED_PTX_VERSION, \"the provided PTX was compiled with an unsupported toolchain.\")",
    ),
    (Fault::DriverTooOld, "Failed to initialize NVML: Driver/library version mismatch"),
    (Fault::NoKernelImage, "RuntimeError: CUDA error: no kernel image is available for execution on the device"),
    (
        Fault::NoKernelImage,
        "DriverError(CUDA_ERROR_NO_BINARY_FOR_GPU, \"no kernel image is available for execution on the device\") when loading conv",
    ),
    (
        Fault::NoKernelImage,
        "NVIDIA B200 with CUDA capability sm_100 is not compatible with the current PyTorch installation.",
    ),
    (Fault::NoKernelImage, "DriverError(CUDA_ERROR_INVALID_PTX, \"a PTX JIT compilation failed\") when loading reduce"),
    (Fault::Lost, "NVRM: GPU at PCI:0000:17:00: GPU-1; Xid 79: GPU has fallen off the bus."),
    (Fault::Lost, "RuntimeError: CUDA error: uncorrectable ECC error encountered"),
    (
        Fault::Assert,
        "../aten/src/ATen/native/cuda/Loss.cu:250: block: [0,0,0], thread: [1,0,0] Assertion `t < n_classes` failed.\nRuntimeError: CUDA error: device-side assert triggered",
    ),
    (
        Fault::Assert,
        "a tensor operation failed\nnote: DriverError(CUDA_ERROR_ASSERT, \"device-side assert triggered\")",
    ),
    (
        Fault::IllegalAddress,
        "RuntimeError: CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronously reported",
    ),
    (
        Fault::IllegalAddress,
        "note: DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"an illegal memory access was encountered\")",
    ),
    (Fault::IllegalAddress, "cudaErrorMisalignedAddress: misaligned address"),
    (Fault::LaunchFailed, "RuntimeError: CUDA error: unspecified launch failure"),
    (Fault::LaunchFailed, "note: CublasError(CUBLAS_STATUS_EXECUTION_FAILED)"),
    (
        Fault::LaunchTooLarge,
        "DriverError(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, \"too many resources requested for launch\")",
    ),
    (Fault::Timeout, "CUDA error 702: the launch timed out and was terminated"),
    (Fault::Busy, "RuntimeError: CUDA error: CUDA-capable device(s) is/are busy or unavailable"),
    (Fault::NoDevice, "RuntimeError: No CUDA GPUs are available"),
    (Fault::NoDevice, "note: DriverError(CUDA_ERROR_NO_DEVICE, \"no CUDA-capable device is detected\")"),
    (
        Fault::Communication,
        "torch.distributed.DistBackendError: NCCL error, unhandled system error (run with NCCL_DEBUG=INFO for details)",
    ),
    // What is certain comes before what follows from it.
    (
        Fault::IllegalAddress,
        "CUDNN_STATUS_EXECUTION_FAILED\nNCCL: unhandled cuda error\nCUDA error: an illegal memory access was encountered",
    ),
];

fn about() -> About {
    About {
        model: Some("NVIDIA H200".into()),
        capability: Some((9, 0)),
        driver: Some("535.54.03".into()),
        cuda: Some((12, 2)),
    }
}

fn told(text: &str, is_program: bool) -> String {
    let facts = || Facts { is_program, card: Some("GPU 3 (NVIDIA H200)".into()), about: about() };
    explained(Error::rendered("error: `x` failed", 1), text, facts).render("error")
}

#[test]
fn every_fault_is_recognised_in_the_words_of_many_programs() {
    for (expected, text) in SAID {
        let found = fault(text).map(|(fault, _)| fault);
        assert_eq!(found, Some(*expected), "{text}");
        for is_program in [false, true] {
            let told = told(text, is_program);
            assert!(told.starts_with("error: `x` failed\nnote: ") && told.contains("\nhint: "), "{text}\n{told}");
        }
    }
    assert!(gpu_was_full(SAID[0].1) && !gpu_was_full(SAID.last().unwrap().1));
}

#[test]
fn other_words_are_no_fault_of_a_gpu() {
    let said = [
        "",
        "MemoryError: Unable to allocate 74.5 GiB for an array with shape (100000, 100000)",
        "OOM when allocating tensor with shape[8] on /job:localhost/device:CPU:0 by allocator cpu",
        "the disk is out of space; memory is fine",
        "cuda is there\nrunning out of memory of what happened",
        "error while loading shared libraries: libpng16.so.16: cannot open shared object file",
        "AssertionError: labels must be numbers",
        "the bus has left; the GPU is fine",
    ];
    for text in said {
        assert_eq!(fault(text), None, "{text}");
        assert_eq!(told(text, true), "error: `x` failed");
    }
}

#[test]
fn what_is_told_names_versions_cards_libraries_and_what_to_do() {
    let pieces: &[(&str, bool, &[&str])] = &[
        (
            "CUDA error: device-side assert triggered",
            true,
            &["GPU 3 (NVIDIA H200)", "label", "CUDA_LAUNCH_BLOCKING=1", "`env`", "compute-sanitizer", "no other task"],
        ),
        ("CUDA_ERROR_ILLEGAL_ADDRESS", false, &["CUDA_LAUNCH_BLOCKING=1 hashpipe run", "please report"]),
        ("no kernel image is available", false, &["compute capability 9.0", "CUDA_COMPUTE_CAP=90 cargo build"]),
        ("no kernel image is available", true, &["sm_90"]),
        (
            "CUDA driver version is insufficient for CUDA runtime version",
            false,
            &["535.54.03", "CUDA 12.2", "580 or newer", "this hashpipe was built"],
        ),
        ("CUDA driver version is insufficient for CUDA runtime version", true, &["535.54.03", "torch.version.cuda"]),
        (
            "libcublasLt.so.13: cannot open shared object file",
            true,
            &["`libcublasLt.so.13`", "pip install nvidia-cublas", "LD_LIBRARY_PATH", "`env`"],
        ),
        ("libcuda.so.1: cannot open shared object file", true, &["NVIDIA's driver", "--gpus all"]),
        ("Unable to dynamically load the \"nccl\" shared library", false, &["NCCL", "nvidia-nccl-cu13"]),
        ("GPU has fallen off the bus", false, &["Xid", "--gpus 1,2"]),
    ];
    for (text, is_program, pieces) in pieces {
        let told = told(text, *is_program);
        for piece in *pieces {
            assert!(told.to_lowercase().contains(&piece.to_lowercase()), "{piece}\n{told}");
        }
    }
    // Without a card of its own, and without a driver that tells.
    let told = |text: &str, is_program| {
        let facts = || Facts { is_program, ..Facts::default() };
        explained(Error::new(crate::error::Kind::Stage, text), "", facts).render("error")
    };
    assert!(told("No CUDA GPUs are available", true).contains("resources = { gpus = 1 }"));
    assert!(told("capability sm_120 is not compatible with the current PyTorch installation", true).contains("12.0"));
    assert!(told("no kernel image is available", false).contains("nvidia-smi --query-gpu=compute_cap"));
    assert!(told("CUDA driver version is insufficient for CUDA runtime version", false).contains("`nvidia-smi` tells"));
}
