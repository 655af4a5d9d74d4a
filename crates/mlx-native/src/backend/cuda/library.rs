//! Libraries of CUDA's, loaded at run time: tables of the few functions that are used.

use std::path::PathBuf;

/// Declares a struct with one field for each function of a C library, and how to fill it.
///
/// The functions keep their C names and are called as methods. A function that the library lacks is an error that names
/// it when the table is made.
macro_rules! functions {
    ($(#[$doc:meta])* $table:ident { $(fn $name:ident($($arg:ident: $ty:ty),* $(,)?) -> $result:ty;)* }) => {
        $(#[$doc])*
        #[allow(non_snake_case)]
        pub(super) struct $table {
            $($name: unsafe extern "C" fn($($ty),*) -> $result,)*
            /// Keeps the code in memory.
            _library: libloading::Library,
        }

        #[allow(non_snake_case)]
        impl $table {
            /// Looks all functions up.
            ///
            /// # Safety
            /// The library's functions must have these types.
            unsafe fn of(library: libloading::Library) -> Result<Self, String> {
                $(
                    // SAFETY: the caller vouches for the type.
                    let found = unsafe { library.get::<unsafe extern "C" fn($($ty),*) -> $result>(
                        concat!(stringify!($name), "\0").as_bytes(),
                    ) };
                    let $name = *found.map_err(|_| format!("it has no function {}", stringify!($name)))?;
                )*
                Ok(Self { $($name,)* _library: library })
            }

            $(
                /// The function of this name.
                ///
                /// # Safety
                /// As the library's documentation demands of its caller.
                pub unsafe fn $name(&self, $($arg: $ty),*) -> $result {
                    // SAFETY: the caller's duty.
                    unsafe { (self.$name)($($arg),*) }
                }
            )*
        }
    };
}
pub(super) use functions;

/// Loads the first of `candidates` that can be loaded.
///
/// # Errors
/// In words: what the loader said of each that exists, or that there is none.
pub(super) fn load_first(candidates: &[PathBuf]) -> Result<(libloading::Library, PathBuf), String> {
    let mut complaints = Vec::new();
    for path in candidates {
        // A bare name is looked for by the loader.
        let is_name = path.components().count() == 1;
        if !is_name && !path.exists() {
            continue;
        }
        // SAFETY: these are NVIDIA's libraries: their initialisers may run at any time.
        match unsafe { libloading::Library::new(path) } {
            Ok(library) => return Ok((library, path.clone())),
            Err(e) => complaints.push(format!("{}: {e}", path.display())),
        }
    }
    // The first words of each are enough: names that do not exist fill pages.
    Err(complaints
        .first()
        .cloned()
        .unwrap_or_else(|| "no such file".to_owned()))
}
