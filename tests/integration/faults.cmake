# Fault tests: real guests, and whatever can go wrong for them. Each leaves exactly one guest, with its RAM.
#
# faults_random.py runs all of its 50 migrations with: faults_random.py BUILD/bin --count 50
find_package(Python3 3.11 REQUIRED COMPONENTS Interpreter)
foreach(name input death handover network)
    add_test(NAME faults_${name} COMMAND Python3::Interpreter ${CMAKE_CURRENT_LIST_DIR}/faults_${name}.py ${CMAKE_RUNTIME_OUTPUT_DIRECTORY})
endforeach()
add_test(NAME faults_random
         COMMAND Python3::Interpreter ${CMAKE_CURRENT_LIST_DIR}/faults_random.py ${CMAKE_RUNTIME_OUTPUT_DIRECTORY} --count 12)
set_tests_properties(faults_input faults_death faults_handover faults_network faults_random PROPERTIES LABELS integration TIMEOUT 600)
# By hand: postcopy_random.py BUILD/bin --count 200, and over RDMA, in the lab, as its head says.
add_test(NAME postcopy_random
         COMMAND Python3::Interpreter ${CMAKE_CURRENT_LIST_DIR}/postcopy_random.py ${CMAKE_RUNTIME_OUTPUT_DIRECTORY} --count 8)
set_tests_properties(postcopy_random PROPERTIES LABELS integration TIMEOUT 600 PROCESSORS 2)
# It reserves huge pages, which the host has for all.
set_tests_properties(faults_input PROPERTIES RESOURCE_LOCK huge_pages)
