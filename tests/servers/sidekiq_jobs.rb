# The jobs of the tests as a Ruby worker has them: each does what the one of the same name in
# tests/end_to_end/jobs.py does, and leaves the same lines in the same record.
require "sidekiq"
require "sidekiq/api"

Redis.silence_deprecations = true # 6.4 uses a newer client than it knows

Sidekiq.configure_server do |config|
  Sidekiq.options[:poll_interval_average] = ENV.fetch("POLL", "1").to_f
  config.logger.level = Logger::WARN if ENV["COUNT"] # sparing the log, as Sidekiq's own benchmark does
  config.on(:startup) { warn "ready" }
end

RECORD = File.open(ENV.fetch("RECORD"), "a")

def note(number, event, ident, attempt = 0)
  now = Process.clock_gettime(Process::CLOCK_MONOTONIC)
  RECORD.syswrite(format("%d %s %d %d %.3f %s\n", number, event, Process.pid, attempt, now, ident))
end

# A number, and what to do besides leaving its lines, and for how long
class HardJob
  include Sidekiq::Worker

  def perform(number, action = "sleep", seconds = 0.0)
    note(number, "start", jid)
    sleep([seconds, 1].min) if seconds.positive?
    raise "told to fail" if action == "fail"
    note(number, "end", jid)
  end
end

module Deep
  # Its arguments, as Ruby understands them
  class Echo
    include Sidekiq::Worker

    def perform(*args)
      Sidekiq.redis { |redis| redis.rpush("echoed", JSON.generate("jid" => jid, "args" => args)) }
    end
  end
end

# Nothing to do. After as many as COUNT says, the seconds since the first one are in the file DONE
class Noop
  include Sidekiq::Worker
  LOCK = Mutex.new
  COUNT = ENV.fetch("COUNT", "0").to_i

  def perform(*)
    LOCK.synchronize do
      now = Process.clock_gettime(Process::CLOCK_MONOTONIC)
      @@first ||= now
      @@count = (@@count ||= 0) + 1
      File.write(ENV.fetch("DONE"), (now - @@first).to_s) if @@count == COUNT
    end
  end
end
