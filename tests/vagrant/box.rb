# What the box that the test builds brings along. A project's Vagrantfile overrides it, so what must
# hold here is not said there.
Vagrant.configure("2") do |config|
  config.ssh.insert_key = false # the machine lives for minutes, behind a network of its own
  config.ssh.connect_timeout = 60
  config.vm.guest = :debian # finding that out takes 30 calls of ssh

  config.vm.provider :libvirt do |libvirt|
    libvirt.driver = "qemu" # emulation, which every machine can
    libvirt.cpu_mode = "custom"
    # Without AVX: QEMU 7.2 emulates it slowly, and so that polars gets sums wrong.
    libvirt.cpu_model = "Nehalem"
  end
end
