-- wrk -s get_one.lua URL -- PATH: GET of one address.
local path

function init(args) path = args[1] end

function request() return wrk.format("GET", path) end

function done(summary, latency)
	local e = summary.errors
	print(string.format("RESULT %d %d %d %.1f %.1f", summary.requests, summary.duration,
		e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(50), latency:percentile(99)))
end
