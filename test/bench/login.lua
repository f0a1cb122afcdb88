-- wrk -s login.lua URL -- USERS PASSWORD: logs random users in.
local requests = {}

function init(args)
	local headers = { ["Content-Type"] = "application/json" }
	math.randomseed(os.time())
	for i = 1, tonumber(args[1]) do
		requests[i] = wrk.format("POST", "/api/auth/login", headers,
			string.format('{"email":"u%d@bench.example","password":"%s"}', i, args[2]))
	end
end

function request()
	return requests[math.random(#requests)]
end

function done(summary, latency)
	local e = summary.errors
	print(string.format("RESULT %d %d %d %.1f %.1f", summary.requests, summary.duration,
		e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(50), latency:percentile(99)))
end
