-- wrk -s get.lua URL -- PREFIX IDS [TOKEN]: GET of PREFIX and a random id from 1 to
-- IDS. Requests are made beforehand: wrk must not be what is measured.
local requests, at = {}, 0

function init(args)
	local headers = {}
	if args[3] then headers["Authorization"] = "Bearer " .. args[3] end
	math.randomseed(os.time())
	for i = 1, 4096 do
		requests[i] = wrk.format("GET", args[1] .. math.random(1, tonumber(args[2])), headers)
	end
end

function request()
	at = at % #requests + 1
	return requests[at]
end

function done(summary, latency)
	local e = summary.errors
	print(string.format("RESULT %d %d %d %.1f %.1f", summary.requests, summary.duration,
		e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(50), latency:percentile(99)))
end
