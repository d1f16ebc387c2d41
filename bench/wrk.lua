-- Has wrk say what it measured in numbers.
done = function(summary, latency)
   local failed = 0
   for _, count in pairs(summary.errors) do
      failed = failed + count
   end
   io.write(string.format("numbers %d %d %d %d %d\n", summary.requests, summary.duration,
      latency:percentile(50), latency:percentile(99), failed))
end
