//! What the fuzz targets run: each takes any bytes, and must neither panic nor take memory without bound.

/// Opens `data` as a safetensors file and reads the bytes of every tensor that it is said to hold.
#[doc(hidden)]
pub fn fuzz_safetensors(data: &[u8]) {
    let Ok(file) = crate::weights::SafetensorsFile::from_bytes("fuzz", data.to_vec()) else {
        return;
    };
    let mut total = 0;
    for (name, info) in file.tensors() {
        let bytes = file.bytes(name).map_or(0, <[u8]>::len);
        assert_eq!(
            bytes,
            info.element_count() * info.dtype.size_of(),
            "tensor {name:?}"
        );
        total += bytes;
    }
    assert!(
        total <= data.len(),
        "tensors of {total} bytes in a file of {}",
        data.len()
    );
}

/// Reads the signatures out of `data` as a Metal text.
#[doc(hidden)]
pub fn fuzz_msl(data: &[u8]) {
    let _ = crate::kernel::msl::parse(&String::from_utf8_lossy(data));
}

/// Opens `data` as a GGUF file and looks at everything it says.
#[doc(hidden)]
pub fn fuzz_gguf(data: &[u8]) {
    let Ok(file) = crate::gguf::GgufFile::from_bytes("fuzz", data.to_vec()) else {
        return;
    };
    let mut total = 0;
    for name in file.tensor_names() {
        total += file.tensor_bytes(name).map_or(0, <[u8]>::len);
    }
    assert!(
        total <= data.len(),
        "tensors of {total} bytes in a file of {}",
        data.len()
    );
    for key in file.metadata_keys() {
        let strings = file.metadata_strings(key).map_or(0, |s| s.len());
        let values = file
            .metadata(key)
            .and_then(|v| v.as_array())
            .map_or(0, <[_]>::len);
        assert!(strings <= data.len() && values <= data.len());
    }
}
