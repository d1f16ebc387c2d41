//! tarn-runtime-oci.
