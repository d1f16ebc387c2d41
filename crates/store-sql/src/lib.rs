//! tarn-store-sql.
