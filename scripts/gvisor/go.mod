// Pins the gVisor source that scripts/gvisor.sh builds runsc from, and its
// dependencies (go.sum beside this file).
module tarn.invalid/gvisor

go 1.26.3

require gvisor.dev/gvisor v0.0.0-20260905035102-160fafc42237
